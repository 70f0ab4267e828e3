"""`python -m esft.cli`."""

from esft.cli.app import main

main()
