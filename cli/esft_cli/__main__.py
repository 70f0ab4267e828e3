"""`python -m esft_cli`."""

from esft_cli.app import main

main()
