"""Rollout engines: they turn prompts into completions with whatever weights the model holds now."""

from esft_worker.engine.interface import Drained, Engine, Rollout
from esft_worker.engine.transformers import TransformersEngine

__all__ = ["Drained", "Engine", "Rollout", "TransformersEngine"]
