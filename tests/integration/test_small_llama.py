"""The fused forward pass of small Llama models against the modules of `transformers`, on real architectures."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from esft_worker.engine import small_llama
from esft_worker.engine.decoding import Decoding
from esft_worker.engine.forward import Batch, Forward, ModelForward, Sequences
from esft_worker.engine.small_llama import SmallLlama
from random_models import CONFIGS, left_padded, save_random_model

pytestmark = pytest.mark.integration

VOCABULARY = 50
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # so that each part of a block shows in the logits
}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "grouped heads": {"num_key_value_heads": 2},
    "wide heads": {"head_dim": 24},
    "slow rotation": {"rope_theta": 100.0},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


def random_model(seed: int = 0, **options: object) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **options}))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.uniform_(parameter, 0.5, 2.0)  # the norms' weights
    return model.requires_grad_(requires_grad=False).eval()


def logits_of(forward: Forward, lengths: tuple[int, ...], steps: tuple[int, ...]) -> list[torch.Tensor]:
    """Logits after the prompts and after each step of so many tokens; after the first, every second one stays."""
    ids, mask = left_padded(lengths, VOCABULARY)
    with torch.inference_mode():
        sequences = forward.begin(mask, room=sum(steps))
        found = [sequences.step(ids)]
        sequences.keep(torch.arange(0, len(lengths), 2))
        for index, count in enumerate(steps):
            found.append(
                sequences.step(
                    left_padded((count,) * len(range(0, len(lengths), 2)), VOCABULARY, seed=index)[0]
                )
            )
    return found


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("lengths", [(5, 9, 1, 3, 9), (40, 3, 36, 33)], ids=["short", "long"])
def test_logits_are_those_of_transformers(options: dict[str, object], lengths: tuple[int, ...]) -> None:
    model = random_model(**options)
    assert small_llama.fits(model)
    steps = (1, 1, 3, 1, 35, 1)
    expected = logits_of(ModelForward(model), lengths, steps)
    found = logits_of(SmallLlama(model), lengths, steps)
    for of_model, of_ours in zip(expected, found, strict=True):
        torch.testing.assert_close(of_ours, of_model, rtol=1e-4, atol=1e-4 * float(of_model.std()))


def test_a_change_of_the_weights_is_seen_at_once() -> None:
    model = random_model()
    forward = SmallLlama(model)
    for name, parameter in model.named_parameters():
        before = logits_of(forward, (4, 6), ())[0]
        with torch.no_grad():
            parameter.mul_(1.1)
        assert not torch.equal(before, logits_of(forward, (4, 6), ())[0]), name


def test_a_sequence_does_not_depend_on_those_before_it() -> None:
    forward = SmallLlama(random_model())
    alone = logits_of(forward, (7, 3, 5), (1, 1))
    logits_of(forward, (60,) * 9, (3,))
    again = logits_of(forward, (7, 3, 5), (1, 1))
    assert all(map(torch.equal, alone, again))


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_only_what_it_computes_fits(architecture: str, tmp_path: Path) -> None:
    folder = save_random_model(tmp_path, architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert small_llama.fits(model) == (architecture == "llama")


@pytest.mark.parametrize(
    "changed",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_other_kinds_of_llama_do_not_fit(changed: dict[str, object]) -> None:
    assert not small_llama.fits(random_model(**changed))


def test_half_precision_and_large_models_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    assert not small_llama.fits(model.to(torch.bfloat16))
    model = random_model()
    monkeypatch.setattr(small_llama, "_MOST_PARAMETERS", model.num_parameters() - 1)
    assert not small_llama.fits(model)


class Counting:
    """A forward pass that counts the rows of each step."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.rows: list[int] = []

    def begin(self, attention_mask: torch.Tensor, *, room: int) -> Sequences:
        counted, sequences = self.rows, self._forward.begin(attention_mask, room=room)

        class Counted:
            keep = staticmethod(sequences.keep)

            def step(self, input_ids: torch.Tensor) -> torch.Tensor:
                counted.append(len(input_ids))
                return sequences.step(input_ids)

        return Counted()


@pytest.mark.parametrize("make", [ModelForward, SmallLlama])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ended_sequences_leave_and_change_nothing(
    make: type[ModelForward | SmallLlama], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    ids, mask = left_padded((5, 2, 7, 7, 4, 6, 3, 7) * 4, VOCABULARY)
    batch = Batch(tuple(range(len(ids))), ids, mask)
    decoding = Decoding(max_new_tokens=24, temperature=temperature, end_ids=tuple(range(0, VOCABULARY, 5)))

    def complete() -> tuple[list[tuple[int, ...]], list[int]]:
        forward = Counting(make(model))
        generator = torch.Generator().manual_seed(3)
        completions, _ = decoding.complete(
            batch, forward=forward, generator=generator, should_stop=lambda: False
        )
        return completions, forward.rows

    completions, rows = complete()
    monkeypatch.setattr("esft_worker.engine.decoding._ENDED_SHARE", 2.0)  # never
    all_the_way, all_rows = complete()
    assert completions == all_the_way
    assert set(all_rows) == {len(ids)}
    assert sorted(rows, reverse=True) == rows
    assert rows[-1] < len(ids) / 4
    lengths = [len(tokens) for tokens in completions]
    assert len(set(lengths)) > 4
    assert sum(rows) < 1.5 * sum(lengths)  # of 8 left at least 2 have to end before they leave
