"""Decodes so that a member's fitness does not depend on what its worker did before.

Hence not by `model.generate`: sampling there draws from torch's global generator. The loop from prompts to
tokens does what ES needs (left padding, greedy or temperature sampling, end of sequence) and nothing else.
Sequences that have ended leave the batch once they are enough to be worth it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from esft_worker.engine.forward import Batch, Forward
from esft_worker.engine.interface import Drained

_ENDED_SHARE: Final = 0.25
"""So many have to have ended before the others go on alone: the cache is copied for it."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen, and when to stop.

    Attributes:
        max_new_tokens: a completion is cut after so many tokens.
        temperature: 0 is greedy; above, the scale that logits are divided by before sampling.
        end_ids: each of these tokens ends a completion.
    """

    max_new_tokens: int
    temperature: float
    end_ids: tuple[int, ...]

    @torch.inference_mode()
    def complete(
        self, batch: Batch, *, forward: Forward, generator: torch.Generator, should_stop: Callable[[], bool]
    ) -> tuple[list[tuple[int, ...]], bool]:
        """Generate for one batch.

        Returns:
            Each prompt's tokens up to and including its end, and whether all logits were finite.

        Raises:
            Drained: `should_stop` said so between two tokens.
        """
        size, device = len(batch.input_ids), batch.input_ids.device
        end_ids = torch.tensor(self.end_ids, device=device)
        generated = torch.full((size, self.max_new_tokens), self.end_ids[0], device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        going = torch.arange(size, device=device)
        ended = torch.zeros(size, dtype=torch.bool, device=device)
        sequences = forward.begin(batch.attention_mask, room=self.max_new_tokens)
        step_ids = batch.input_ids
        for index in range(self.max_new_tokens):
            if should_stop():
                raise Drained
            logits = sequences.step(step_ids)
            finite &= torch.isfinite(logits).all()
            chosen = self._choose(logits, self._uniform(size, generator, going))
            generated[going, index] = chosen
            ended |= torch.isin(chosen, end_ids)
            count = int(ended.sum())
            if count == len(going):
                break
            if count >= _ENDED_SHARE * len(going):
                kept = (~ended).nonzero().squeeze(1)
                sequences.keep(kept)
                going, chosen, ended = going[kept], chosen[kept], ended[kept]
            step_ids = chosen.unsqueeze(1)
        return [self._up_to_end(row) for row in generated.tolist()], bool(finite)

    def _uniform(self, size: int, generator: torch.Generator, going: torch.Tensor) -> torch.Tensor | None:
        """A number in [0, 1) for each sequence, [sequences, 1]; a sequence's do not depend on who has ended.

        Drawn on the CPU, so that a seed means the same on any device.
        """
        if self.temperature == 0:
            return None
        return torch.rand((size, 1), generator=generator).to(going.device)[going]

    def _choose(self, logits: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
        """The next token of each sequence."""
        if uniform is None:
            return logits.argmax(dim=-1)
        cumulative = torch.softmax(logits.float() / self.temperature, dim=-1).cumsum(dim=-1)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1)
        return chosen.clamp_(max=logits.shape[1] - 1)

    def _up_to_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Cut after the first end-of-sequence token."""
        for index, token_id in enumerate(ids):
            if token_id in self.end_ids:
                return tuple(ids[: index + 1])
        return tuple(ids)
