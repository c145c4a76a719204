"""Makes the environment that a child process starts with: nothing of the worker's own beyond PATH, HOME and locale."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset(("PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONSTARTUP"))
_PASSED = re.compile(r"HOME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR")
_PATH = "/usr/local/bin:/usr/bin:/bin"


def is_allowed_name(name: str) -> bool:
    """Tell whether a variable of this name may be set by a queue or a vault."""
    return bool(_NAME.fullmatch(name)) and name not in _RESERVED and not name.startswith("RUNQY_")


def child_environment(
    *, virtual_environment: Path, own: Mapping[str, str], configured: Mapping[str, str]
) -> dict[str, str]:
    """Return a child's environment; `own` is ours (RUNQY_...), `configured` comes from the queue and its vaults."""
    env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    env |= {name: value for name, value in configured.items() if is_allowed_name(name) and "\0" not in value}
    env["PATH"] = f"{virtual_environment / 'bin'}{os.pathsep}{os.environ.get('PATH') or _PATH}"
    env["VIRTUAL_ENV"] = str(virtual_environment)
    return {**env, **own}
