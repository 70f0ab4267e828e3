"""A whole generation against the plain loop: same model, prompts, population and hardware: `bench/generation.py`.

Ours is `esft run` with a worker a core (or one on a GPU), timed between the openings of generations, with all that a
real run does: the queue, the log, the digest, grading in its own process. The plain loop (plain_loop.py) gets the whole
machine, with the number of threads that suits it best. Generations that evaluate are left out of ours.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.document import load
from esft.generation import prompt_indices
from esft.spec import ESFineTuneSpec
from esft_worker.source import default_cache, model_directory
from esft_worker.tasks import build_task
from finished_run import JOB, WARM_UP, esft_run
from plain_loop import PlainLoop
from rows import show, write


def plain_seconds(spec: ESFineTuneSpec, *, generations: int, threads: int, device: torch.device) -> float:
    """Median time of a generation of the plain loop."""
    torch.set_num_threads(threads)
    directory = model_directory(spec.model.source, revision=None, token=None, cache=default_cache())
    dtype = getattr(torch, spec.model.dtype)
    loop = PlainLoop(
        AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(device).eval(),
        AutoTokenizer.from_pretrained(directory),
        sigma=spec.evolution.sigma,
        learning_rate=spec.evolution.learning_rate,
    )
    task, examples = build_task(spec.task)
    taken = []
    for generation in range(generations):
        indices = prompt_indices(spec, generation, available=len(examples.train))
        chosen = [examples.train[index] for index in indices]
        start = time.perf_counter()
        loop.generation(
            [str(example.prompt) for example in chosen],
            seeds=[
                generation * spec.evolution.population + member for member in range(spec.evolution.population)
            ],
            max_new_tokens=spec.decoding.max_new_tokens,
            reward=lambda texts, chosen=chosen: [
                task.grade(example, text).reward for example, text in zip(chosen, texts, strict=True)
            ],
        )
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def our_seconds(job: Path, *, generations: int, workers: int, settings: list[str]) -> float:
    """Median time of a generation of `esft run`."""
    settings = [*settings, f"evolution.generations={generations + WARM_UP}"]
    with tempfile.TemporaryDirectory() as folder:
        run = esft_run(job, workers=workers, settings=settings, output=Path(folder) / "run")
    return statistics.median(line["seconds"] for line in run.trained)


def main() -> None:
    parser = argparse.ArgumentParser(description="A whole generation against the plain loop.")
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="settings")
    parser.add_argument("--generations", type=int, default=12, help="timed in each run")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each, in turns")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = load(options.job, options.settings).spec
    rows = []
    for _ in range(options.pairs):
        ours = our_seconds(
            options.job,
            generations=options.generations,
            workers=1 if device.type == "cuda" else cores,
            settings=options.settings,
        )
        plain = {
            threads: plain_seconds(spec, generations=4, threads=threads, device=device)
            for threads in {1, cores}
        }
        rows.append(
            {
                "name": "whole generation",
                "job": str(options.job),
                "device": device.type,
                "ours_seconds": round(ours, 3),
                "plain_seconds": round(min(plain.values()), 3),
                "plain_seconds_by_threads": {threads: round(value, 3) for threads, value in plain.items()},
                "ratio": round(min(plain.values()) / ours, 2),
            }
        )
        print(rows[-1], flush=True)
    write("generation", rows)
    show("generation")


if __name__ == "__main__":
    main()
