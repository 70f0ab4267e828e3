"""The command line `esft`, which is also `kubectl esft`."""

from esft_cli.app import main

__all__ = ["main"]
