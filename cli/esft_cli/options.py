"""The arguments and options that several commands share, so that they are called and described alike."""

import os
from pathlib import Path
from typing import Annotated

import typer

from esft.errors import EsftError, SpecError


class NotInAClusterError(EsftError):
    """Something that only runs in a cluster have was asked of a folder."""


def is_folder(target: str, *, namespace: str | None, context: str | None) -> bool:
    """Whether a folder is meant: it is there or looks like a path, and nothing says that it is in a cluster."""
    if namespace is not None or context is not None:
        return False
    return os.sep in target or Path(target).exists()


def new_folder(folder: Path) -> Path:
    """Check a folder that a command writes, as its option's callback.

    Raises:
        SpecError: it is there already.
    """
    if folder.exists():
        raise SpecError(f"{folder} exists already. Fix: name a new folder.")
    return folder


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML file with one ESFineTune.", show_default=False)
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a field below spec, e.g. evolution.sigma=0.01. May be repeated.",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIR", help="Name of a run in a cluster, or output folder of a run.", show_default=False
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace in the cluster. [default: the context's]", show_default=False
    ),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig. [default: the current one]", show_default=False),
]
