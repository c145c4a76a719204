"""Runs a Python module whose scripts log no ended attempts: `python -m soak.unlogged <module> [arguments]`."""

import runpy
import sys

from benchmarks.unlogged import stop_logging

if __name__ == "__main__":
    stop_logging()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
