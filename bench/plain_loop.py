"""ES on a language model as it is commonly published, written from its description: what ours is measured against.

Per member a seeded torch generator gives noise tensor by tensor, in the model's dtype, which is added in place; the
model answers all prompts with Hugging Face's `generate`; the completions are decoded and rewarded; the same noise is
made again and taken off. The update makes each member's noise once more. One process, as many threads as it likes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class PlainLoop:
    """The model, in place; nothing is kept of the unperturbed weights."""

    def __init__(self, model: Any, tokenizer: Any, *, sigma: float, learning_rate: float) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.sigma = sigma
        self.learning_rate = learning_rate

    def generation(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        reward: Callable[[Sequence[str]], Sequence[float]],
    ) -> None:
        """One generation: every seed's reward, then the update."""
        rewards = []
        for seed in seeds:
            self.add_noise(seed, scale=self.sigma)
            rewards.append(sum(reward(self.complete(prompts, max_new_tokens=max_new_tokens))) / len(prompts))
            self.add_noise(seed, scale=-self.sigma)
        values = torch.tensor(rewards)
        self.update(seeds, ((values - values.mean()) / (values.std() + 1e-8)).tolist())

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Greedy completions of all prompts in one batch."""
        inputs = self.tokenizer(
            list(prompts), return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False
        ).to(self.model.device)
        outputs = self.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
        )
        width = inputs["input_ids"].shape[1]
        return [self.tokenizer.decode(row[width:], skip_special_tokens=True) for row in outputs]

    @torch.no_grad()
    def add_noise(self, seed: int, *, scale: float) -> None:
        """Add scaled noise of one seed in place."""
        for parameter in self.model.parameters():
            parameter.add_(self._noise(parameter, seed).mul_(scale))

    @torch.no_grad()
    def update(self, seeds: Sequence[int], coefficients: Sequence[float]) -> None:
        """For each tensor the mean over all seeds, then one addition."""
        for parameter in self.model.parameters():
            change = torch.zeros_like(parameter)
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                change.add_(self._noise(parameter, seed).mul_(coefficient))
            parameter.add_(change.mul_(self.learning_rate / len(seeds)))

    def _noise(self, parameter: torch.Tensor, seed: int) -> torch.Tensor:
        generator = torch.Generator(parameter.device).manual_seed(seed)
        return torch.randn(
            parameter.shape, dtype=parameter.dtype, device=parameter.device, generator=generator
        )
