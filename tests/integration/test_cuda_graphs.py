"""Decoding in recorded steps: operation by operation on a CPU, as graphs where there is a GPU."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Qwen2Config

from esft_worker.engine import cuda_graphs
from esft_worker.engine.cuda_graphs import GraphedForward, Step
from esft_worker.engine.decoding import Decoding
from esft_worker.engine.forward import Batch, Forward, ModelForward
from random_models import SHAPE as SMALL
from random_models import left_padded

pytestmark = pytest.mark.integration

VOCABULARY = 60
SHAPE = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.3}
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gemma": GemmaConfig}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def random_model(architecture: str, device: str = "cpu") -> torch.nn.Module:
    with torch.random.fork_rng(), torch.device("meta" if device == "meta" else "cpu"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[architecture](**SHAPE))
    return model.requires_grad_(requires_grad=False).eval().to(device)


def as_it_is(step: Step) -> Step:
    """In place of a recording, where there is no GPU."""
    return step


def graphed(model: torch.nn.Module) -> GraphedForward:
    return GraphedForward(model) if model.device.type == "cuda" else GraphedForward(model, record=as_it_is)


def batch_of(lengths: tuple[int, ...], device: str = "cpu", *, seed: int = 1) -> Batch:
    ids, mask = left_padded(lengths, VOCABULARY, seed=seed)
    return Batch(tuple(range(len(lengths))), ids.to(device), mask.to(device))


def logits_of(forward: Forward, batch: Batch, keeps: dict[int, list[int]]) -> list[torch.Tensor]:
    """Logits after the prompts and after 9 tokens each; before a token of `keeps` only those sequences stay."""
    with torch.inference_mode():
        sequences = forward.begin(batch.attention_mask, room=10)
        found = [sequences.step(batch.input_ids)]
        for index in range(9):
            if index in keeps:
                sequences.keep(torch.tensor(keeps[index], device=batch.input_ids.device))
            ids = torch.arange(len(found[-1]) if index not in keeps else len(keeps[index])) * (index + 3)
            found.append(sequences.step((ids % VOCABULARY)[:, None].to(batch.input_ids.device)).clone())
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_logits_are_those_of_the_model(architecture: str, device: str) -> None:
    model = random_model(architecture, device)
    batch = batch_of((4, 9, 1, 6, 6, 2, 9, 3) * 4, device)
    # All go on, some leave, half of the rest leave (to a smaller step), and all but three (to a smaller one still).
    keeps = {
        2: [index for index in range(32) if index % 4],
        4: list(range(1, 24, 2)),
        6: [0, 5, 11],
    }
    expected = logits_of(ModelForward(model), batch, keeps)
    forward = graphed(model)
    for _ in range(2):  # the second time in the tensors that the first has used
        found = logits_of(forward, batch, keeps)
        for of_model, of_ours in zip(expected, found, strict=True):
            torch.testing.assert_close(of_ours, of_model, rtol=1e-4, atol=1e-4 * float(of_model.std()))


@pytest.mark.parametrize("device", DEVICES)
def test_completions_are_those_of_the_model(device: str) -> None:
    model = random_model("qwen2", device)
    decoding = Decoding(max_new_tokens=40, temperature=0.0, end_ids=tuple(range(0, VOCABULARY, 12)))
    batch = batch_of((5, 2, 7, 7, 4, 6, 3, 7) * 5, device)

    def complete(forward: Forward) -> list[tuple[int, ...]]:
        return decoding.complete(
            batch, forward=forward, generator=torch.Generator(), should_stop=lambda: False
        )[0]

    completions = complete(graphed(model))
    assert completions == complete(ModelForward(model))
    assert len(set(map(len, completions))) > 3


def test_a_step_is_made_once_for_prompts_of_nearly_the_same_length() -> None:
    recorded: list[Step] = []

    def record(step: Step) -> Step:
        recorded.append(step)
        return step

    forward = GraphedForward(random_model("llama"), record=record)
    for lengths in ((5, 9), (9, 9), (30, 1), (9, 5)):
        logits_of(forward, batch_of(lengths), {})
    assert len(recorded) == 1
    logits_of(forward, batch_of((60, 2)), {})
    assert len(recorded) == 2


def test_a_batch_sees_nothing_of_the_one_before() -> None:
    model = random_model("llama")
    forward = GraphedForward(model, record=as_it_is)
    for lengths in ((30, 2, 1), (3, 9, 9)):
        batch = batch_of(lengths)
        for of_model, of_ours in zip(
            logits_of(ModelForward(model), batch, {}), logits_of(forward, batch, {}), strict=True
        ):
            torch.testing.assert_close(of_ours, of_model, rtol=1e-4, atol=1e-4 * float(of_model.std()))


def test_steps_that_are_not_used_any_more_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_MOST_STEPS", 2)
    model = random_model("llama")
    forward = GraphedForward(model, record=as_it_is)
    for count in (2, 3, 2, 4):
        batch = batch_of((5,) * count)
        expected = logits_of(ModelForward(model), batch, {})
        assert torch.allclose(logits_of(forward, batch, {})[-1], expected[-1], atol=1e-3)
    assert [sequences for sequences, _ in forward._steps] == [2, 4]


def test_what_is_recorded_never_moves() -> None:
    """A graph reads and writes addresses: those of a step's tensors have to stay."""
    forward = GraphedForward(random_model("llama"), record=as_it_is)
    addresses = []
    for seed in range(3):
        logits_of(forward, batch_of((4, 7), seed=seed), {})
        (step,) = forward._steps.values()
        tensors = [step.input_ids, step.positions, step.seen]
        for layer in step.layers:
            tensors += [layer.keys, layer.values, layer.cumulative_length]
        addresses.append([tensor.data_ptr() for tensor in tensors])
    assert addresses[0] == addresses[1] == addresses[2]


class Devices(TorchDispatchMode):
    """Where the tensors are that operations take and make."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.found |= {tensor.device.type for tensor in tensors}
        return result


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_a_step_neither_looks_at_values_nor_brings_some(architecture: str) -> None:
    """Recording forbids both. On tensors without values a look fails; what is brought is in host memory before."""
    model = random_model(architecture, "meta")
    with torch.inference_mode(), Devices() as devices:
        step = cuda_graphs._StaticStep(model, sequences=4, capacity=64)
        devices.found.clear()  # making it may do both
        assert step.compute().shape == (4, VOCABULARY)
    assert devices.found == {"meta"}
    with pytest.raises(RuntimeError):
        bool(torch.ones(1, device="meta").all())


def test_a_model_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = random_model("llama")
    batch = batch_of((3, 5))
    forward = GraphedForward(model, record=fails)
    expected = logits_of(ModelForward(model), batch, {4: [1]})
    for _ in range(2):
        found = logits_of(forward, batch, {4: [1]})
        assert all(map(torch.equal, found, expected))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("device", DEVICES)
def test_models_fit_on_a_gpu(device: str) -> None:
    assert cuda_graphs.fits(random_model("qwen2", device)) == (device == "cuda")
