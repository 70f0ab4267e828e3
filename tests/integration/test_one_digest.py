"""The promise in one place: one log gives one digest, whatever made the updates, where and in how many passes."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from esft.records import UpdateRecord
from esft.spec import MasterWeights
from esft_worker import weights as weights_module
from esft_worker.noise import Kernels, kernels_for
from esft_worker.noise.torch_ops import TorchKernels
from esft_worker.weights import Weights
from random_models import save_random_model

pytestmark = pytest.mark.integration

UPDATES = 18  # more than are replayed in one pass


@dataclass(frozen=True)
class Way:
    """How a worker comes to its weights."""

    kernels: str = "numba"
    device: str = "cpu"
    threads: int = 1
    masters: MasterWeights = "device"
    at_once: int = 1

    def make_kernels(self, device: torch.device, *, threads: int) -> Kernels:
        if self.kernels == "torch":
            return TorchKernels(device)
        if self.kernels == "triton":
            from esft_worker.noise.triton_ops import TritonKernels  # noqa: PLC0415 - triton is not everywhere

            return TritonKernels(device)
        return kernels_for(device, threads=threads)


LIVE = Way()
OTHERS = {
    "2 threads": Way(threads=2),
    "split masters": Way(masters="split"),
    "masters on the host": Way(masters="host"),
    "replay": Way(at_once=16),
    "replay, 2 threads, split masters": Way(threads=2, masters="split", at_once=UPDATES),
    "torch": Way(kernels="torch"),
    "Triton's interpreter": Way(kernels="triton", at_once=UPDATES),
}
if torch.cuda.is_available():
    OTHERS |= {
        f"GPU, {masters}": Way(kernels="triton", device="cuda", masters=masters, at_once=UPDATES)
        for masters in ("device", "split", "host")
    }
    del OTHERS["Triton's interpreter"]


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"), words=8)


def log() -> list[UpdateRecord]:
    draw = random.Random(7)
    return [
        UpdateRecord(
            generation=generation,
            sigma=0.01,
            step=0.002,
            exponent=-23,
            coefficients=tuple(draw.randint(-(2**24), 2**24) for _ in range(6)),
            fitness=(),
        )
        for generation in range(UPDATES)
    ]


def digest_of(way: Way, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(weights_module, "kernels_for", way.make_kernels)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(way.device)
    weights = Weights(
        model,
        seed=3,
        antithetic=True,
        include=[".*"],
        exclude=["norm"],
        threads=way.threads,
        masters=way.masters,
    )
    records = log()
    for start in range(0, UPDATES, way.at_once):
        weights.apply(records[start : start + way.at_once])
    return weights.digest()


@pytest.mark.parametrize("way", OTHERS.values(), ids=OTHERS)
def test_one_log_gives_one_digest(way: Way, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest_of(way, folder, monkeypatch) == digest_of(LIVE, folder, monkeypatch)
