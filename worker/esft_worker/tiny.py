"""A tiny language model, made here from nothing in about a minute, to try everything without a model hub.

It stands in for a pretrained model with a latent ability, which is what ES brings out. It is trained in two
phases: first to solve countdown with three numbers, then, for the last part of its training, to answer most
puzzles with the plain sum of their numbers. Greedy decoding then mostly adds up, although the model can do
better. docs/performance.md has the figures.

Limits: the same machine and the same versions give the same files, bit for bit; another processor may round
differently, so the workers of one run need one copy, or like machines. Targets and numbers go to 100.
Rejected: a character tokenizer (more tokens, and place values to learn); committing the weights (a binary that
nobody can review); Muon for the matrices, and embeddings that start as sines of the numbers' values (neither
gained anything in the same time); the Qwen2 architecture (`AutoTokenizer` takes such a model's tokenizer for
Qwen's own, whatever the files say, and splits numbers into digits).
"""

import errno
import fcntl
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from esft.errors import SpecError
from esft_worker.file_modes import share
from esft_worker.tasks.countdown_instances import InstanceKey, generate
from esft_worker.tiny_puzzles import (
    ANSWER_TOKENS,
    EOS,
    IGNORED,
    PAD,
    TOKEN_IDS,
    VOCABULARY,
    Puzzles,
    make_tokenizer,
)

Progress = Callable[[int, int], None]

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})  # of some network file systems
_THREADS: Final = 1  # part of the result, since sums are split by thread; two are a third faster, when idle


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the model, besides the versions of torch and transformers.

    Attributes:
        revision: to be raised with any change of the code that changes the model.
        max_number: the numbers of a puzzle are from 1 to this, at most 100.
        max_target: its target likewise.
        held_out_seed: seed of the generated instances that are never trained on.
        held_out_size: how many of them.
        hidden_size: width of the model; a multiple of `heads`.
        layers: number of transformer blocks.
        heads: attention heads.
        feed_forward_size: inner width of each block's MLP.
        steps: optimiser steps in all.
        batch_size: puzzles a step.
        habit_steps: how many of the last steps teach the habit too.
        habit_share: share of the answers in these steps that are the plain sum.
        learning_rate: peak, for AdamW.
        warmup_steps: steps of linear warm-up; from half of `steps` on, the rate falls linearly to 0.
        seed: of the initial weights and of the order of the data.
    """

    revision: int = 1
    max_number: int = 30
    max_target: int = 40
    held_out_seed: int = 1
    held_out_size: int = 2048
    hidden_size: int = 96
    layers: int = 3
    heads: int = 4
    feed_forward_size: int = 256
    steps: int = 900
    batch_size: int = 128
    habit_steps: int = 225
    habit_share: float = 0.7
    learning_rate: float = 0.003
    warmup_steps: int = 30
    seed: int = 0


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({"countdown": Recipe()})


def build(directory: Path, *, progress: Progress, recipe: Recipe = RECIPES["countdown"]) -> None:
    """Train the model and write it, with its tokenizer, in Hugging Face format.

    Args:
        directory: written to; made where it does not exist.
        progress: called after each step with the steps done and the steps in all.
        recipe: what to make.
    """
    with _fixed_threads():
        model = _trained(recipe, progress=progress)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    share(directory, like="config.json")


def cached(name: str, cache: Path, progress: Progress, *, recipes: Mapping[str, Recipe] = RECIPES) -> Path:
    """Give the folder of tiny://`name`; build it where the cache has none of this recipe and these versions.

    Of several processes that ask at the same time one builds and the others wait; on a file system without locks each
    builds, and the first one's counts. A build that was killed leaves nothing that counts.

    Args:
        name: of a recipe.
        cache: folder of built models; made where it does not exist.
        progress: as for `build`; not called when there is nothing to build.
        recipes: by name.

    Raises:
        SpecError: there is no such recipe.
    """
    if name not in recipes:
        raise SpecError(
            f"spec.model.source: there is no built-in model tiny://{name}. "
            f"Fix: use {' or '.join(f'tiny://{known}' for known in sorted(recipes))}."
        )
    recipe = recipes[name]
    final = cache / f"tiny-{name}-{recipe_hash(recipe)}"
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{final.name}.lock") as locked:
        if not final.is_dir():
            for left_over in cache.glob(f".{final.name}.partial*") if locked else ():
                shutil.rmtree(left_over, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial", dir=cache))
            try:
                build(partial, progress=progress, recipe=recipe)
                _publish(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return final


def _publish(partial: Path, final: Path) -> None:
    """Give the folder its name, unless another process came first."""
    partial.chmod(0o755)
    try:
        partial.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def recipe_hash(recipe: Recipe) -> str:
    """Name a recipe together with the versions that decide its result: 16 hexadecimal digits."""
    decisive = {
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=8).hexdigest()


def _trained(recipe: Recipe, *, progress: Progress) -> Any:
    generator = torch.Generator().manual_seed(recipe.seed)
    puzzles = Puzzles.enumerate(
        max_number=recipe.max_number, max_target=recipe.max_target, exclude=held_out_keys(recipe)
    )
    model = _initial_model(recipe, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(recipe.steps):
        has_habit = step >= recipe.steps - recipe.habit_steps
        inputs, answers = puzzles.draw(
            recipe.batch_size, habit_share=recipe.habit_share if has_habit else 0.0, generator=generator
        )
        logits = model(input_ids=inputs, use_cache=False, logits_to_keep=ANSWER_TOKENS).logits
        loss: Any = cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, recipe.steps)
    return model.eval()


def held_out_keys(recipe: Recipe) -> set[InstanceKey]:
    """The puzzles that are never trained on, whatever the order of their numbers."""
    instances = generate(
        size=recipe.held_out_size,
        seed=recipe.held_out_seed,
        counts=(3,),
        max_number=recipe.max_number,
        max_target=recipe.max_target,
    )
    return {instance.key for instance in instances}


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step."""
    return min(1.0, (step + 1) / recipe.warmup_steps, 2 * (recipe.steps - step) / recipe.steps)


def _initial_model(recipe: Recipe, *, generator: torch.Generator) -> Any:
    """Make the model with weights from `generator` alone; torch's global generator is left as it was."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.feed_forward_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=TOKEN_IDS[EOS],
        pad_token_id=TOKEN_IDS[PAD],
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).train()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5 / math.sqrt(parameter.shape[1]), generator=generator)
        model.get_input_embeddings().weight.normal_(0, 0.05, generator=generator)
    return model


@contextmanager
def _fixed_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file; it ends with the process, however that ends. False: there are no locks here."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
        else:
            yield True
