"""Generates with any decoder-only model that `transformers` can load: loading, prompts, batches.

decoding.py turns a batch into tokens.

Limits: models whose state is not a key-value cache (Mamba, RWKV) and encoder-decoder models are refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from esft.errors import SpecError
from esft_worker.engine import cuda_graphs, small_llama
from esft_worker.engine.cuda_graphs import GraphedForward
from esft_worker.engine.decoding import Decoding
from esft_worker.engine.forward import Batch, Forward, ModelForward
from esft_worker.engine.interface import Rollout
from esft_worker.engine.small_llama import SmallLlama
from esft_worker.file_modes import share
from esft_worker.tasks import Example, Prompt

_PREPARED_LISTS = 80  # the members' prompts and every evaluation shard's
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TransformersEngine:
    """Loads a model folder in Hugging Face format and generates with it."""

    def __init__(
        self,
        directory: Path,
        *,
        dtype: str,
        device: torch.device,
        max_new_tokens: int,
        temperature: float,
        batch_size: int,
    ) -> None:
        """Load the model; no parameter needs a gradient.

        Args:
            directory: holds config.json, safetensors weights and a tokenizer.
            dtype: float32, float16 or bfloat16: that of the working weights.
            device: where the model runs.
            max_new_tokens: a completion is cut after so many tokens.
            temperature: 0 is greedy; above, the scale that logits are divided by before sampling.
            batch_size: most prompts in one forward pass.

        Raises:
            SpecError: the folder holds no model that this engine can run.
        """
        self.model = _load_model(directory, dtype=_DTYPES[dtype], device=device)
        self._tokenizer = _load_tokenizer(directory)
        self._device = device
        self._batch_size = batch_size
        self._decoding = Decoding(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_ids=_end_of_sequence_ids(self.model, self._tokenizer),
        )
        self._forward = _forward_of(self.model)
        self._batches: dict[tuple[Prompt, ...], list[Batch]] = {}

    def rollout(
        self, examples: Sequence[Example], *, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Rollout:
        """See `Engine.rollout`."""
        token_ids: list[tuple[int, ...]] = [()] * len(examples)
        finite = True
        generator = torch.Generator().manual_seed(seed)
        for batch in self._prepare(examples):
            completed, batch_finite = self._decoding.complete(
                batch, forward=self._forward, generator=generator, should_stop=should_stop
            )
            finite = finite and batch_finite
            for index, ids in zip(batch.indices, completed, strict=True):
                token_ids[index] = ids
        completions = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return Rollout(completions=tuple(completions), token_ids=tuple(token_ids), finite=finite)

    @torch.inference_mode()
    def token_logprobs(self, example: Example, token_ids: Sequence[int]) -> torch.Tensor:
        """See `Engine.token_logprobs`."""
        prompt = self._token_ids(example)
        input_ids = torch.tensor([[*prompt, *token_ids]], device=self._device)
        logits = self.model(input_ids=input_ids).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.float(), dim=-1)

    def save(self, directory: str) -> None:
        """See `Engine.save`."""
        self.model.save_pretrained(directory)
        self._tokenizer.save_pretrained(directory)
        share(Path(directory), like="config.json")

    def _prepare(self, examples: Sequence[Example]) -> list[Batch]:
        """Tokenise once for as long as the same prompts are asked for; alike lengths share a batch."""
        key = tuple(example.prompt for example in examples)
        if key not in self._batches:
            if len(self._batches) >= _PREPARED_LISTS:
                del self._batches[next(iter(self._batches))]
            token_ids = [self._token_ids(example) for example in examples]
            order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
            self._batches[key] = [
                self._pad(order[start : start + self._batch_size], token_ids)
                for start in range(0, len(order), self._batch_size)
            ]
        return self._batches[key]

    def _token_ids(self, example: Example) -> list[int]:
        prompt = example.prompt
        if isinstance(prompt, str):
            ids = self._tokenizer.encode(prompt)
        elif self._tokenizer.chat_template is None:
            raise SpecError(
                "spec.task: the prompts are chats, but the tokenizer of spec.model.source has no chat template. "
                "Fix: use a chat model, or plain prompts (for countdown: spec.task.options.style: text)."
            )
        else:
            messages = [asdict(message) for message in prompt]
            ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if not ids:
            raise SpecError("spec.task: a prompt has no tokens. Fix: give every example a prompt.")
        longest = getattr(self.model.config, "max_position_embeddings", None)
        new = self._decoding.max_new_tokens
        if longest is not None and len(ids) + new > longest:
            raise SpecError(
                f"spec.decoding.maxNewTokens: a prompt of {len(ids)} tokens and {new} new ones "
                f"exceed the model's {longest} positions. Fix: lower it to {max(longest - len(ids), 0)} or less, "
                "or shorten the prompts."
            )
        return list(ids)

    def _pad(self, indices: Sequence[int], token_ids: Sequence[Sequence[int]]) -> Batch:
        width = max(len(token_ids[index]) for index in indices)
        input_ids = torch.full((len(indices), width), self._decoding.end_ids[0], dtype=torch.long)
        attention_mask = torch.zeros((len(indices), width), dtype=torch.long)
        for row, index in enumerate(indices):
            ids = token_ids[index]
            input_ids[row, width - len(ids) :] = torch.tensor(ids)
            attention_mask[row, width - len(ids) :] = 1
        return Batch(tuple(indices), input_ids.to(self._device), attention_mask.to(self._device))


def _load_model(directory: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        if getattr(config, "is_encoder_decoder", False):
            raise SpecError(
                f"spec.model.source: {directory} holds an encoder-decoder model ({config.model_type}). "
                "Fix: name a decoder-only causal language model."
            )
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SpecError(
            f"spec.model.source: no causal language model can be loaded from {directory}: {_first_line(error)} "
            "Fix: name a folder in Hugging Face format (config.json, *.safetensors, tokenizer)."
        ) from error
    model.requires_grad_(requires_grad=False)
    model.eval()
    return model.to(device)


def _forward_of(model: Any) -> Forward:
    """The fastest forward pass for a model. It follows from model and device, so that like workers agree."""
    if small_llama.fits(model):
        return SmallLlama(model)
    return GraphedForward(model) if cuda_graphs.fits(model) else ModelForward(model)


def _load_tokenizer(directory: Path) -> Any:
    problem = "it has no vocabulary."
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        if tokenizer.encode("a 1", add_special_tokens=False):  # transformers makes an empty one of no files
            return tokenizer
    except (OSError, ValueError, KeyError) as error:
        problem = _first_line(error)
    raise SpecError(
        f"spec.model.source: no tokenizer can be loaded from {directory}: {problem} "
        "Fix: save the tokenizer beside the model (tokenizer.json, tokenizer_config.json)."
    )


def _end_of_sequence_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: the generation config may name several."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    ids = [token_id for token_id in [*ids, tokenizer.eos_token_id] if token_id is not None]
    if not ids:
        raise SpecError(
            "spec.model.source: neither the tokenizer nor generation_config.json names an end-of-sequence token. "
            "Fix: set eos_token in the tokenizer's configuration."
        )
    return tuple(dict.fromkeys(ids))


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
