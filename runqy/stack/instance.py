"""The folder of a local stack, and the environment of each of its processes."""

import base64
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runqy import settings
from runqy.core.environment.home import get_or_create_secret, make_home

_SERVER_PREFIXES = (
    "REDIS_",
    "DATABASE_",
    "SQLITE_",
    "RUNQY_SECRET_KEY",
    "RUNQY_VAULT_",
    "RUNQY_CLIENT_",
    "RUNQY_WORKER_",
    "RUNQY_API_KEY",
    "RUNQY_METRICS_",
)
"""Prefixes of variables that the stack's worker does not get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """The folder of a stack, and its port."""

    home: Path
    port: int
    is_first_start: bool

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def url_file(self) -> Path:
        """The file in which commands find the URL while the stack runs."""
        return self.home / "server_url"

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"


def open_instance() -> Instance:
    """Return the instance of this environment. Create its folder and keys if they are missing."""
    home = make_home(settings.RUNQY_HOME)
    for name in ("api_key", "worker_api_key", "metrics_token", "admin_password"):
        get_or_create_secret(home, name, _generate_key)
    get_or_create_secret(home, "vault_master_key", _generate_master_key)
    return Instance(home=home, port=settings.PORT, is_first_start=not _start_marker(home).exists())


def mark_as_started(instance: Instance) -> None:
    """Record that the generated secrets were shown. The next start shows only their files."""
    _start_marker(instance.home).touch()


def _start_marker(home: Path) -> Path:
    return home / "greeted"


def server_environment(instance: Instance, **more: str) -> dict[str, str]:
    """Return the environment of the web server, maintenance and management commands."""
    more |= {"RUNQY_HOME": str(instance.home), "DJANGO_SETTINGS_MODULE": "runqy.settings"}
    replaced = {name.removesuffix("_FILE") for name in more}
    env = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in replaced} | more
    # As files of mode 0600, because other processes can read an environment.
    for name in ("api_key", "worker_api_key", "metrics_token", "vault_master_key"):
        _default_to_file(env, f"RUNQY_{name.upper()}", instance.home / name)
    if not _is_set(env, "RUNQY_GIT_CHECK_PRIVATE"):
        env["RUNQY_GIT_CHECK_PRIVATE"] = "true"  # the examples are deployed from a local repository
    if not _is_set(env, "RUNQY_WEBHOOK_NETWORKS"):
        env["RUNQY_WEBHOOK_NETWORKS"] = "127.0.0.0/8,::1/128"  # receivers that are tried on this machine
    if hosts := env.get("RUNQY_ALLOWED_HOSTS"):
        env["RUNQY_ALLOWED_HOSTS"] = f"{hosts},localhost,127.0.0.1"  # the stack's worker connects to these
    return env


def worker_environment(instance: Instance) -> dict[str, str]:
    """Return the environment of the stack's worker. Of the server it has only the URL and a key.

    The worker serves all queues, unless the user's environment names some.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SERVER_PREFIXES)}
    env |= {
        "RUNQY_SERVER_URL": f"http://127.0.0.1:{instance.port}",
        "RUNQY_API_KEY": settings.RUNQY_WORKER_API_KEY or get_or_create_secret(instance.home, "worker_api_key"),
    }
    env.setdefault("RUNQY_QUEUES", "*")
    env.setdefault("RUNQY_DEPLOYMENT_DIR", str(instance.home / "deployments"))
    return env


def _default_to_file(env: dict[str, str], name: str, file: Path) -> None:
    """Set `NAME_FILE` if neither it nor `NAME` is set."""
    if not _is_set(env, name):
        env.pop(name, None)
        env[f"{name}_FILE"] = str(file)


def _is_set(env: Mapping[str, str], name: str) -> bool:
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def _generate_key() -> str:
    return secrets.token_urlsafe(24)


def _generate_master_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")
