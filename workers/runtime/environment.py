"""Makes the environment that a child process starts with: nothing of the worker's own beyond PATH, HOME and locale."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from vaults.names import problem_of_variable

_PASSED = re.compile(r"HOME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR")
_PATH = "/usr/local/bin:/usr/bin:/bin"


def child_environment(
    *, virtual_environment: Path, own: Mapping[str, str], configured: Mapping[str, str]
) -> dict[str, str]:
    """Return a child's environment; `own` is ours (RUNQY_...), `configured` comes from the queue and its vaults."""
    env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    env |= {name: value for name, value in configured.items() if not problem_of_variable(name) and "\0" not in value}
    env["PATH"] = f"{virtual_environment / 'bin'}{os.pathsep}{os.environ.get('PATH') or _PATH}"
    env["VIRTUAL_ENV"] = str(virtual_environment)
    return {**env, **own}
