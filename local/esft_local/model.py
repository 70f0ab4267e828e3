"""The tuned model of a finished run: its final checkpoint without what only a resuming worker needs."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from esft.layout import PRIVATE_PREFIX, STATE_FILE, checkpoint_name
from esft_local.files import RunFolderError, explained, sync_folder


def checkpoint_path(checkpoints: Path, generation: int) -> Path:
    """Folder of the checkpoint of weights(generation), as workers name it."""
    return checkpoints / checkpoint_name(generation)


def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """Generation, digest and fingerprint that a checkpoint was written with.

    Raises:
        RunFolderError: there is no such checkpoint, or it has no state.
    """
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise RunFolderError(
            f"{checkpoint}: not a complete checkpoint. Fix: delete it and start the same command again"
        ) from error
    return state


def publish_model(checkpoint: Path, model: Path) -> None:
    """Make `model` a Hugging Face model folder from a checkpoint, by hard links; copies where links fail.

    The folder appears complete or not at all; one that is there is replaced.

    Raises:
        RunFolderError: the system refuses.
    """
    with explained(model):
        temporary = Path(tempfile.mkdtemp(prefix=".model-", dir=model.parent))
        try:
            temporary.chmod(0o755)
            new = temporary / "new"
            shutil.copytree(checkpoint, new, copy_function=_link_or_copy, ignore=_state_files)
            sync_folder(new)
            if model.exists():
                model.rename(temporary / "old")
            new.rename(model)
            sync_folder(model.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _state_files(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == STATE_FILE or name.startswith(PRIVATE_PREFIX)}


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
