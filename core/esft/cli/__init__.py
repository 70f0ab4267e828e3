"""The command line `esft`, which is also `kubectl esft`."""

from esft.cli.app import main

__all__ = ["main"]
