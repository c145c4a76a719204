"""Run a Python module with a clock that is wrong: `python -m tools.soak.skewed <seconds> <module> [arguments]`.

Instead of the seconds it also takes a file that contains them. If its content changes, the clock is set.

Only Unix time is shifted, in this process and those that it forks. The monotonic clock stays right.
"""

import os
import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Shift the clock, then run the module as `python -m` does."""
    given, module = sys.argv[1], sys.argv[2]
    file = Path(given) if os.sep in given else None
    right_s, right_ns = time.time, time.time_ns

    def offset_s() -> float:
        return float(file.read_text() if file else given)

    time.time = lambda: right_s() + offset_s()
    time.time_ns = lambda: right_ns() + int(offset_s() * 1e9)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
