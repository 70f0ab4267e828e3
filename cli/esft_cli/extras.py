"""What people see where a command needs a package that is not installed: one sentence with the extra to install."""

import contextlib
from collections.abc import Iterator

from esft.errors import EsftError


class MissingPackageError(EsftError):
    """A command needs a package that is not installed."""


@contextlib.contextmanager
def needs(extra: str, *, command: str) -> Iterator[None]:
    """Surround the imports of `esft COMMAND` that are there with that extra of esfinetune only.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"`esft {command}` needs {error.name}, which is not installed. "
            f"Fix: pip install 'esfinetune[{extra}]'"
        ) from error
