"""`python -m runqy.cli` is the command `runqy`."""

from runqy.cli.main import main

main()
