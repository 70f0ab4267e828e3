"""Which processors and GPUs the workers of a local run may use, found without importing torch."""

import os
from collections.abc import Mapping
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def available_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_gpus(environment: Mapping[str, str], *, nvidia: Path = _NVIDIA) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs for CUDA_VISIBLE_DEVICES; where that variable is set, what it names."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = tuple(name.strip() for name in listed.split(",") if name.strip())
        return names[: names.index("-1")] if "-1" in names else names
    if not nvidia.is_dir():
        return ()
    return tuple(str(index) for index, _ in enumerate(nvidia.iterdir()))


def worker_environments(
    environment: Mapping[str, str], gpus: tuple[str, ...], count: int
) -> list[dict[str, str]]:
    """One environment a worker; the GPUs are dealt out in turn."""
    return [
        {**environment, **({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {})}
        for index in range(count)
    ]
