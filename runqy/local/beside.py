"""Lets management commands that are run in the folder of a running stack work on that stack."""

from collections.abc import Mapping
from pathlib import Path

from runqy.local.locks import is_held

_REDIS = ("REDIS_URL", "REDIS_URL_FILE", "REDIS_HOST", "REDIS_HOST_FILE")
_KEPT = {
    "REDIS_URL": "valkey/url",
    "RUNQY_API_KEY": "api_key",
    "RUNQY_WORKER_API_KEY": "worker_api_key",
    "RUNQY_VAULT_MASTER_KEY": "vault_master_key",
}
"""Where a stack keeps what its server is told by these variables."""


def variables_beside(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a command lacks to see what the stack in its RUNQY_HOME sees.

    None where a Redis is configured, or no stack with a Valkey of its own runs.
    """
    home = Path(env.get("RUNQY_HOME") or ".runqy").absolute()
    if any(env.get(name) for name in _REDIS) or not (home / "valkey" / "url").exists():
        return {}
    if not is_held(home / "valkey" / "lock"):
        return {}
    return {
        f"{name}_FILE": str(home / place)
        for name, place in _KEPT.items()
        if not env.get(name) and not env.get(f"{name}_FILE")
    }
