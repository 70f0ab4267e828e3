"""Lets others read a model's files: safetensors writes its own for their user alone, whatever the umask.

A checkpoint is made to be taken away, often by a pod of another user; and a copy that lacks the weights looks whole.
"""

from pathlib import Path


def share(directory: Path, *, like: str) -> None:
    """Give the folder's weights the mode of another file in it, which was written the usual way."""
    mode = (directory / like).stat().st_mode & 0o777
    for path in directory.glob("*.safetensors"):
        path.chmod(mode)
