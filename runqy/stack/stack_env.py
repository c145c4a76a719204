"""The environment with which management commands use the stack that runs in the same folder."""

from collections.abc import Mapping
from pathlib import Path

from runqy.stack.locks import is_held

_REDIS = ("REDIS_URL", "REDIS_URL_FILE", "REDIS_HOST", "REDIS_HOST_FILE")
_FILES = {
    "REDIS_URL": "valkey/url",
    "RUNQY_API_KEY": "api_key",
    "RUNQY_WORKER_API_KEY": "worker_api_key",
    "RUNQY_VAULT_MASTER_KEY": "vault_master_key",
}
"""Files of a stack with the values of these variables."""


def stack_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a command needs to use the stack in its RUNQY_HOME.

    Empty if a Redis is configured, or if no stack with an embedded Valkey runs.
    """
    home = Path(env.get("RUNQY_HOME") or ".runqy").absolute()
    if any(env.get(name) for name in _REDIS) or not (home / "valkey" / "url").exists():
        return {}
    if not is_held(home / "valkey" / "lock"):
        return {}
    return {
        f"{name}_FILE": str(home / path)
        for name, path in _FILES.items()
        if not env.get(name) and not env.get(f"{name}_FILE")
    }
