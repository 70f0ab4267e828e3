"""What the loop asks of an engine, and nothing more, so that another one (vLLM, say) is one more file.

An engine owns its model's *working* weights only in so far as it reads them: `Weights` writes them between calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from esft_worker.tasks import Example


class Drained(Exception):  # noqa: N818 - not an error: the worker was asked to stop
    """Raised out of a rollout when the worker was asked to stop; nothing of the rollout is kept."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a model made of a list of prompts.

    Attributes:
        completions: decoded text after each prompt, in the order of the prompts, without special tokens.
        token_ids: the same as tokens, up to and including the end of sequence where there is one.
        finite: False when the model gave NaN or infinite logits anywhere; the completions mean nothing then.
    """

    completions: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    finite: bool

    @property
    def tokens(self) -> int:
        """Number of tokens generated."""
        return sum(map(len, self.token_ids))


class Engine(Protocol):
    """Generates with `model`, whose parameters the caller may rewrite between calls."""

    model: torch.nn.Module

    def rollout(
        self, examples: Sequence[Example], *, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Rollout:
        """Complete every prompt.

        The same examples, weights and seed give the same completions on like hardware, whoever asks.

        Raises:
            Drained: `should_stop` said so between two tokens.
            SpecError: a prompt does not fit the model.
        """
        ...

    def token_logprobs(self, example: Example, token_ids: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary at each token of a completion.

        Returns:
            A float32 tensor [tokens, vocabulary] on the model's device.
        """
        ...

    def save(self, directory: str) -> None:
        """Write model, tokenizer and configuration in Hugging Face format."""
        ...
