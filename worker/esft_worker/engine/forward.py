"""Lets one decoding loop run on any forward pass: all it asks of a model is logits of the next token.

`ModelForward` asks a `transformers` model. small_llama.py computes the same for one architecture in fewer operations;
cuda_graphs.py starts a model's operations all at once.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class Batch:
    """Left-padded prompts.

    Attributes:
        indices: theirs in the list that was asked for.
        input_ids: [prompts, width], int64.
        attention_mask: [prompts, width], int64: 0 on padding.
    """

    indices: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


class Sequences(Protocol):
    """Token sequences under way, and what the model keeps of them (their key-value cache)."""

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Append tokens.

        Args:
            input_ids: [sequences, tokens], int64.

        Returns:
            Logits of the token that follows, [sequences, vocabulary].
        """
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these sequences alone: their indices among the present ones, int64, ascending."""
        ...


class Forward(Protocol):
    """A model that computes with its weights as they are at each step."""

    def begin(self, attention_mask: torch.Tensor, *, room: int) -> Sequences:
        """Start sequences; the prompts are their first step.

        Args:
            attention_mask: the prompts', [sequences, width].
            room: most tokens that follow the prompts.
        """
        ...


class ModelForward:
    """`Forward` by any model of `transformers` that has a key-value cache."""

    def __init__(self, model: Any) -> None:
        self._model = model
        arguments = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in arguments
        self._takes_logits_to_keep = "logits_to_keep" in arguments

    def begin(self, attention_mask: torch.Tensor, *, room: int) -> "ModelSequences":
        """See `Forward.begin`."""
        return ModelSequences(self, attention_mask, room=room)

    def logits(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Next-token logits [sequences, vocabulary]; the cache grows by `input_ids`."""
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if self._takes_positions:
            arguments["position_ids"] = positions
        if self._takes_logits_to_keep:
            arguments["logits_to_keep"] = 1
        logits: torch.Tensor = self._model(input_ids=input_ids, attention_mask=mask, **arguments).logits
        return logits[:, -1]

    def empty_cache(self) -> DynamicCache:
        """A cache for this model's layers."""
        return DynamicCache(config=self._model.config)


class ModelSequences:
    """`Sequences` whose cache grows with each step.

    Attributes:
        cache: keys and values so far, [sequences, heads, tokens, head size] in each layer.
    """

    def __init__(self, forward: ModelForward, attention_mask: torch.Tensor, *, room: int) -> None:
        self._forward = forward
        self._mask = torch.cat([attention_mask, attention_mask.new_ones(len(attention_mask), room)], dim=1)
        self._positions = (self._mask.cumsum(dim=-1) - 1).clamp_(min=0)
        self.cache = forward.empty_cache()
        self._length = 0

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `Sequences.step`."""
        start, self._length = self._length, self._length + input_ids.shape[1]
        return self._forward.logits(
            input_ids, self._mask[:, : self._length], self._positions[:, start : self._length], self.cache
        )

    def keep(self, rows: torch.Tensor) -> None:
        """See `Sequences.keep`."""
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        self.cache.batch_select_indices(rows)
