"""So that `python -m esft_cli` is `esft`, also where no script is on PATH."""

from esft_cli.app import main

main()
