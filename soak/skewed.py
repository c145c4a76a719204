"""Runs a Python module with a clock that is wrong: `python -m soak.skewed <seconds> <module> [arguments]`.

Instead of seconds it takes a file that contains them, which may change meanwhile: the clock is set.

Only Unix time moves, in this process and those that it forks; spans, which are measured by the monotonic clock, are
as ever.
"""

import os
import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Move the clock, then run the module as if it had been started itself."""
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
