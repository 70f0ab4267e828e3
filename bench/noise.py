"""Speed of perturbation and update against the plain loop: `python bench/noise.py`.

The plain loop is how ES on language models is commonly published: a seeded torch generator gives noise
tensor by tensor, which is added in place, taken off again after the member's evaluation, and made once more
for the update. Ours writes each member from the masters, so there is nothing to take off, and goes over the
weights once for the whole update. Both get the same number of threads, and the model is the same: a GPT of
100 million parameters, tensor by tensor, random.

Prints a table and writes the rows to runs/bench.json, beside those of other benchmarks. Takes about 3
minutes.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence

import torch

from esft.records import UpdateRecord
from esft_worker.weights import Weights
from rows import write

LAYERS, WIDTH, VOCABULARY, POSITIONS = 12, 768, 20_000, 1024
SIGMA, STEP = 1e-3, 5e-4


def gpt(dtype: torch.dtype) -> torch.nn.Module:
    """The parameters of a GPT, without the code around them."""
    shapes: dict[str, tuple[int, ...]] = {"wte": (VOCABULARY, WIDTH), "wpe": (POSITIONS, WIDTH)}
    for layer in range(LAYERS):
        for name, shape in {
            "ln_1": (WIDTH,),
            "attn_qkv": (3 * WIDTH, WIDTH),
            "attn_out": (WIDTH, WIDTH),
            "ln_2": (WIDTH,),
            "mlp_in": (4 * WIDTH, WIDTH),
            "mlp_out": (WIDTH, 4 * WIDTH),
        }.items():
            shapes[f"h_{layer}_{name}_weight"] = shape
            shapes[f"h_{layer}_{name}_bias"] = shape[:1]
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Module()
    for name, shape in shapes.items():
        values = torch.empty(shape).normal_(std=0.02, generator=generator).to(dtype)
        model.register_parameter(name, torch.nn.Parameter(values, requires_grad=False))
    return model


def add_noise(model: torch.nn.Module, *, seed: int, scale: float) -> None:
    """The plain loop: add scaled noise of one seed in place."""
    generator = torch.Generator()
    for parameter in model.parameters():
        generator.manual_seed(seed)
        noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        parameter.add_(noise.mul_(scale))


def plain_update(model: torch.nn.Module, *, coefficients: Sequence[float]) -> None:
    """The plain loop: for each tensor, the sum over all seeds, then one addition."""
    generator = torch.Generator()
    for parameter in model.parameters():
        change = torch.zeros_like(parameter)
        for seed, coefficient in enumerate(coefficients):
            generator.manual_seed(seed)
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            change.add_(noise.mul_(coefficient))
        parameter.add_(change.mul_(STEP))


def plain_members(model: torch.nn.Module, *, members: int) -> None:
    """The plain loop over a population: perturb, and restore what was perturbed."""
    for seed in range(members):
        add_noise(model, seed=seed, scale=SIGMA)
        add_noise(model, seed=seed, scale=-SIGMA)


def our_members(weights: Weights, *, members: int) -> None:
    """Our loop over a population: each is written from the masters, and the model restored once."""
    for member in range(members):
        weights.perturb(generation=0, member=member, sigma=SIGMA)
    weights.restore()


def measure(dtype: torch.dtype, *, members: int, threads: int, repeats: int) -> list[dict[str, object]]:
    """Rows of one dtype."""
    model = gpt(dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = Weights(model, seed=1, antithetic=False, include=[".*"], exclude=[], threads=threads)
    generator = random.Random(0)
    integers = tuple(generator.randint(-(2**24), 2**24) for _ in range(members))
    record = UpdateRecord(
        generation=0, sigma=SIGMA, step=STEP / members, exponent=-23, coefficients=integers, fitness=()
    )
    warm_up = UpdateRecord(generation=0, sigma=SIGMA, step=0.0, exponent=0, coefficients=(1,), fitness=())
    our_members(weights, members=1)
    weights.apply([warm_up])
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "perturb": (
            lambda: our_members(weights, members=members),
            lambda: plain_members(model, members=members),
        ),
        "update": (
            lambda: weights.apply([record]),
            lambda: plain_update(model, coefficients=[value * 2.0**-23 / members for value in integers]),
        ),
    }
    rows: list[dict[str, object]] = []
    for operation, (ours, plain) in pairs.items():
        # In turns, so that what else the machine does meets both.
        taken = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
        our_seconds, plain_seconds = (min(column) for column in zip(*taken, strict=True))
        rows.append(
            {
                "operation": operation,
                "dtype": str(dtype).removeprefix("torch."),
                "parameters": parameters,
                "members": members,
                "threads": threads,
                "ours_seconds": round(our_seconds, 3),
                "plain_seconds": round(plain_seconds, 3),
                "ratio": round(plain_seconds / our_seconds, 1),
            }
        )
    return rows


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of perturbation and update against the plain loop.")
    parser.add_argument("--members", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many runs counts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row
        for dtype in (torch.float32, torch.bfloat16)
        for row in measure(dtype, members=options.members, threads=options.threads, repeats=options.repeats)
    ]
    columns = ("operation", "dtype", "ours_seconds", "plain_seconds", "ratio")
    print(f"{rows[0]['parameters']} parameters, {options.members} members, {options.threads} threads")
    print("".join(f"{column:>15}" for column in columns))
    for row in rows:
        print("".join(f"{row[column]!s:>15}" for column in columns))
    write("noise", rows)


if __name__ == "__main__":
    main()
