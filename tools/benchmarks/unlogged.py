"""Scripts that end attempts without logging them, for comparison.

`python -m tools.benchmarks.unlogged <module> [arguments]` runs a module with these scripts.
"""

import re
import runpy
import sys

from runqy.broker.scripts import Script, script
from runqy.broker.tasks import finish

_LOG_CALL = re.compile(r"^ *append_run\(.*\)$", re.MULTILINE)
_LOG_FIELDS = ", 'attempts', 'enqueued', 'due', 'started', 'worker'"
_stripped: dict[str, Script] = {}


def stop_logging() -> None:
    """Make this process end attempts by scripts that log nothing."""
    finish.script = _unlogged_script


def start_logging() -> None:
    """Make this process log attempts again."""
    finish.script = script


def _unlogged_script(name: str) -> Script:
    if name not in _stripped:
        logging = script(name)
        _stripped[name] = Script(logging.name, _LOG_CALL.sub("", logging.source).replace(_LOG_FIELDS, ""))
    return _stripped[name]


if __name__ == "__main__":
    stop_logging()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
