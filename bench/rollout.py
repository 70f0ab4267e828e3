"""A member's rollout on one core against `generate`, and what starting a step's operations costs: `bench/rollout.py`.

The demo's model and prompts, unperturbed: our engine, our engine with the modules of `transformers`, and the plain
loop's. Then decoding steps of a model with 24 blocks so narrow that next to nothing but starting operations is left: a
GPU waits for as long where a step is not recorded as a graph.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from esft.document import load
from esft.generation import prompt_indices
from esft_worker.assemble import load_engine
from esft_worker.engine.forward import ModelForward
from esft_worker.source import default_cache, model_directory
from esft_worker.tasks import build_task
from finished_run import JOB
from plain_loop import PlainLoop
from rows import show, write

BLOCKS, STEPS = 24, 64


def median_seconds(action: Callable[[], object], *, times: int) -> float:
    """Processor time, after one time to warm up."""
    taken = []
    for _ in range(times + 1):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def row(name: str, ours: float, plain: float) -> dict[str, object]:
    """A row of the table, in seconds of a core."""
    return {
        "name": name,
        "device": "cpu",
        "ours_seconds": round(ours, 4),
        "plain_seconds": round(plain, 4),
        "ratio": round(plain / ours, 2),
    }


def member_rows(job: Path) -> list[dict[str, object]]:
    """The demo's rollout."""
    spec = load(job, []).spec
    directory = model_directory(spec.model.source, revision=None, token=None, cache=default_cache())
    _, examples = build_task(spec.task)
    chosen = [examples.train[index] for index in prompt_indices(spec, 0, available=len(examples.train))]
    cpu = torch.device("cpu")
    engine = load_engine(spec, directory, device=cpu)
    with patch("esft_worker.engine.small_llama.fits", return_value=False):
        with_modules = load_engine(spec, directory, device=cpu)
    loop = PlainLoop(engine.model, AutoTokenizer.from_pretrained(directory), sigma=0.0, learning_rate=0.0)
    prompts = [str(example.prompt) for example in chosen]
    plain = median_seconds(
        lambda: loop.complete(prompts, max_new_tokens=spec.decoding.max_new_tokens), times=40
    )
    ours = median_seconds(lambda: engine.rollout(chosen, seed=0), times=40)
    modules = median_seconds(lambda: with_modules.rollout(chosen, seed=0), times=40)
    return [row("rollout", ours, plain), row("rollout, not fused", modules, plain)]


@torch.inference_mode()
def starting_row() -> dict[str, object]:
    """A decoding step of one token, by our loop's forward pass and by `generate`."""
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=14,
        intermediate_size=16,
        num_hidden_layers=BLOCKS,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    prompt = torch.zeros((1, 4), dtype=torch.long)

    def steps() -> None:
        sequences = ModelForward(model).begin(torch.ones_like(prompt), room=STEPS)
        sequences.step(prompt)
        for _ in range(STEPS - 1):
            sequences.step(prompt[:, :1])

    def generate() -> None:
        model.generate(prompt, max_new_tokens=STEPS, do_sample=False, pad_token_id=0)

    return row(
        f"starting a step, {BLOCKS} blocks",
        median_seconds(steps, times=5) / STEPS,
        median_seconds(generate, times=5) / STEPS,
    )


def main() -> None:
    torch.set_num_threads(1)
    write("rollout", [*member_rows(JOB), starting_row()])
    show("rollout")


if __name__ == "__main__":
    main()
