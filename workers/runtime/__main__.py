"""Lets `python -m workers.runtime` do what `runqy-worker` does."""

from workers.runtime.main import main

main()
