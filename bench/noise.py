"""Speed of perturbation and update against the plain loop: `python bench/noise.py`.

The plain loop is how ES on language models is commonly published: a seeded torch generator gives noise
tensor by tensor, which is added in place, taken off again after the member's evaluation, and made once more
for the update. Ours writes each member from the masters, so there is nothing to take off, and goes over the
weights once for the whole update. Both get the same number of threads, and the model is the same: a GPT of
100 million parameters, tensor by tensor, random.

Beside the ratio stand the rates that ours reaches, and what bounds them: a plain copy, and the same kernel on
weights that stay in the cache. Takes about 3 minutes.
"""

import argparse
import random
import time
from collections.abc import Callable

import torch

from esft.records import UpdateRecord
from esft_worker.weights import Weights
from plain_loop import PlainLoop
from rows import show, write

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


def plain_members(plain: PlainLoop, *, members: int) -> None:
    """The plain loop over a population: perturb, and restore what was perturbed."""
    for seed in range(members):
        plain.add_noise(seed, scale=SIGMA)
        plain.add_noise(seed, scale=-SIGMA)


def our_members(weights: Weights, *, members: int) -> None:
    """Our loop over a population: each is written from the masters, and the model restored once."""
    for member in range(members):
        weights.perturb(generation=0, member=member, sigma=SIGMA)
    weights.restore()


def random_update(members: int, *, generation: int = 0) -> UpdateRecord:
    """An update with coefficients of full size."""
    draw = random.Random(generation)
    return UpdateRecord(
        generation=generation,
        sigma=SIGMA,
        step=STEP / members,
        exponent=-23,
        coefficients=tuple(draw.randint(-(2**24), 2**24) for _ in range(members)),
        fitness=(),
    )


def measure(
    dtype: torch.dtype, *, device: torch.device, members: int, threads: int, repeats: int
) -> list[dict[str, object]]:
    """Rows of one dtype."""
    model = gpt(dtype).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = Weights(model, seed=1, antithetic=False, include=[".*"], exclude=[], threads=threads)
    plain = PlainLoop(model, None, sigma=SIGMA, learning_rate=STEP)
    record = random_update(members)
    warm_up = UpdateRecord(generation=0, sigma=SIGMA, step=0.0, exponent=0, coefficients=(1,), fitness=())
    our_members(weights, members=1)
    weights.apply([warm_up])
    plain_members(plain, members=1)
    # Bytes a weight that ours reads and writes: for each member and the restoring, and for the update.
    perturbed, updated = (members + 1) * (4 + dtype.itemsize), 4 + 4
    bounds = {
        "copy_gigabytes_per_second": round(copy_rate(device) / 1e9, 2),
        "cached_normals_per_second": round(cached_rate(dtype, device=device, threads=threads)),
    }
    operations: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "perturb": (
            lambda: our_members(weights, members=members),
            lambda: plain_members(plain, members=members),
            perturbed,
        ),
        "update": (
            lambda: weights.apply([record]),
            lambda: plain.update(range(members), [value * 2.0**-23 for value in record.coefficients]),
            updated,
        ),
    }
    rows: list[dict[str, object]] = []
    for operation, (ours, plainly, bytes_a_weight) in operations.items():
        # In turns, so that what else the machine does meets both.
        taken = [(seconds(ours, device), seconds(plainly, device)) for _ in range(repeats)]
        our_seconds, plain_seconds = (min(column) for column in zip(*taken, strict=True))
        rows.append(
            {
                "name": f"{operation}, {str(dtype).removeprefix('torch.')}",
                "device": device.type,
                "parameters": parameters,
                "members": members,
                "threads": threads,
                "ours_seconds": round(our_seconds, 3),
                "plain_seconds": round(plain_seconds, 3),
                "ratio": round(plain_seconds / our_seconds, 1),
                "gigabytes_per_second": round(bytes_a_weight * parameters / our_seconds / 1e9, 2),
                "normals_per_second": round(members * parameters / our_seconds),
                **bounds,
            }
        )
    return rows


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def copy_rate(device: torch.device) -> float:
    """Bytes read and written in a second by a copy that no cache holds."""
    source = torch.zeros(2**27, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def cached_rate(dtype: torch.dtype, *, device: torch.device, threads: int) -> float:
    """Members' weights in a second that stay in the last-level cache: what making the noise alone allows."""
    model = torch.nn.Module()
    size = 2**22 if device.type == "cuda" else threads * 2**21
    model.register_parameter(
        "weight", torch.nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=False)
    )
    weights = Weights(model.to(device), seed=1, antithetic=False, include=[".*"], exclude=[], threads=threads)
    return 20 * size / min(seconds(lambda: our_members(weights, members=20), device) for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of perturbation and update against the plain loop.")
    parser.add_argument("--members", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many runs counts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [
        row
        for dtype in (torch.float32, torch.bfloat16)
        for row in measure(
            dtype,
            device=device,
            members=options.members,
            threads=options.threads,
            repeats=options.repeats,
        )
    ]
    write("noise", rows)
    show("noise")


if __name__ == "__main__":
    main()
