"""The transformers engine against `model.generate` and against itself, with real architectures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.errors import SpecError
from esft_worker.engine import Drained, TransformersEngine
from esft_worker.tasks import Example, Message
from random_models import CONFIGS, save_random_model

pytestmark = pytest.mark.integration

PROMPTS = ("3 5 8 = 16 :", "7 :", "12 90 4 1 = 100 :", "1 2 = 3 :", "99 :")


def engine_of(directory: Path, **options: object) -> TransformersEngine:
    settings = {
        "dtype": "float32",
        "device": torch.device("cpu"),
        "max_new_tokens": 12,
        "temperature": 0.0,
        "batch_size": 8,
        **options,
    }
    return TransformersEngine(directory, **settings)


def examples(prompts: tuple[str, ...] = PROMPTS) -> list[Example]:
    return [Example(prompt=prompt) for prompt in prompts]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp(request.param), request.param)


def test_greedy_decoding_is_that_of_transformers(model_folder: Path) -> None:
    rollout = engine_of(model_folder).rollout(examples(), seed=0)

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    expected, tokens = [], 0
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(ids, skip_special_tokens=True))
        tokens += len(ids)
    assert list(rollout.completions) == expected
    assert rollout.tokens == tokens
    assert rollout.finite
    assert len(set(expected)) > 1


def test_completions_do_not_depend_on_the_batch(model_folder: Path) -> None:
    together = engine_of(model_folder).rollout(examples(), seed=0)
    one_by_one = engine_of(model_folder, batch_size=1).rollout(examples(), seed=0)
    assert together.completions == one_by_one.completions


def test_sampling_follows_its_seed_alone(model_folder: Path) -> None:
    engine = engine_of(model_folder, temperature=1.0)
    torch.manual_seed(1)
    first = engine.rollout(examples(), seed=7)
    torch.manual_seed(2)
    again = engine.rollout(examples(), seed=7)
    other = engine.rollout(examples(), seed=8)
    assert first.completions == again.completions
    assert first.completions != other.completions


def test_sampling_has_the_distribution_of_the_logits(model_folder: Path) -> None:
    """Frequencies of the first token over 4,000 draws against softmax: chi-squared per cell below 5 sigma."""
    engine = engine_of(model_folder, temperature=0.7, max_new_tokens=1, batch_size=4000)
    draws = 4000
    rollout = engine.rollout(examples(("3 5 :",) * draws), seed=3)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    inputs = tokenizer("3 5 :", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        probabilities = torch.softmax(engine.model(**inputs).logits[0, -1] / 0.7, dim=-1)
    for token_id in probabilities.topk(3).indices.tolist():
        word = tokenizer.decode([token_id], skip_special_tokens=True)
        if not word:
            continue
        p = probabilities[token_id].item()
        count = sum(completion == word for completion in rollout.completions)
        assert abs(count - draws * p) < 5 * (draws * p * (1 - p)) ** 0.5 + 1


def test_a_completion_ends_at_the_end_of_sequence(model_folder: Path) -> None:
    engine = engine_of(model_folder)
    end_id = AutoTokenizer.from_pretrained(model_folder).eos_token_id
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.zero_()  # all logits equal: greedy takes id 0, not the end
    assert engine.rollout(examples(), seed=0).tokens == 12 * len(PROMPTS)
    engine._decoding = replace(engine._decoding, end_ids=(0, end_id))
    assert engine.rollout(examples(), seed=0).tokens == len(PROMPTS)


def test_non_finite_logits_are_noticed(model_folder: Path) -> None:
    engine = engine_of(model_folder)
    with torch.no_grad():
        next(engine.model.parameters()).fill_(float("nan"))
    assert not engine.rollout(examples(), seed=0).finite


def test_a_stop_ends_the_rollout_between_two_tokens(model_folder: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Drained):
        engine_of(model_folder).rollout(examples(), seed=0, should_stop=lambda: next(asked))


def test_logprobs_are_those_of_the_completion(model_folder: Path) -> None:
    engine = engine_of(model_folder)
    rollout = engine.rollout(examples(), seed=0)
    for example, ids in zip(examples(), rollout.token_ids, strict=True):
        logprobs = engine.token_logprobs(example, ids)
        assert torch.allclose(logprobs.exp().sum(-1), torch.ones(len(ids)), atol=1e-4)
        assert tuple(logprobs.argmax(-1).tolist()) == ids


def test_chat_prompts_go_through_the_chat_template(tmp_path: Path) -> None:
    chat = Example(prompt=(Message(role="user", content="3 5 ="),))
    plain = Example(prompt="user 3 5 = assistant")
    engine = engine_of(save_random_model(tmp_path / "chat", chat=True))
    assert engine.rollout([chat], seed=0).completions == engine.rollout([plain], seed=0).completions
    without = engine_of(save_random_model(tmp_path / "plain"))
    with pytest.raises(SpecError, match=r"has no chat template.*Fix"):
        without.rollout([chat], seed=0)


def test_a_prompt_that_does_not_fit_names_the_field(model_folder: Path) -> None:
    with pytest.raises(SpecError, match=r"spec\.decoding\.maxNewTokens: .*96 positions"):
        engine_of(model_folder, max_new_tokens=90).rollout(examples(("1 " * 20,)), seed=0)


@pytest.mark.parametrize("break_it", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_one_clear_error(tmp_path: Path, break_it: str) -> None:
    save_random_model(tmp_path)
    (tmp_path / break_it).unlink()
    with pytest.raises(SpecError, match=r"spec\.model\.source: .*Fix") as caught:
        engine_of(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_generates(model_folder: Path, dtype: str) -> None:
    rollout = engine_of(model_folder, dtype=dtype).rollout(examples(), seed=0)
    assert rollout.tokens >= len(PROMPTS)
