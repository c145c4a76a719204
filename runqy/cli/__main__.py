"""Lets `python -m runqy.cli` do what `runqy` does."""

from runqy.cli.main import main

main()
