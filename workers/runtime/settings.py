"""Reads the worker's settings: a YAML file, and the environment, which wins."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from runqy import durations
from runqy.errors import WorkerSettingsInvalid

T = TypeVar("T")
log = structlog.get_logger()

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_VARIABLES = {
    "server.url": "RUNQY_SERVER_URL",
    "server.api_key": "RUNQY_API_KEY",
    "server.allow_http": "RUNQY_ALLOW_HTTP",
    "worker.queues": "RUNQY_QUEUES",
    "worker.concurrency": "RUNQY_CONCURRENCY",
    "worker.processes": "RUNQY_PROCESSES",
    "worker.shutdown_timeout": "RUNQY_SHUTDOWN_TIMEOUT",
    "worker.isolate_children": "RUNQY_ISOLATE_CHILDREN",
    "bootstrap.retries": "RUNQY_BOOTSTRAP_RETRIES",
    "bootstrap.retry_delay": "RUNQY_BOOTSTRAP_RETRY_DELAY",
    "git.ssh_key": "RUNQY_GIT_SSH_KEY",
    "git.token": "RUNQY_GIT_TOKEN",
    "deployment.dir": "RUNQY_DEPLOYMENT_DIR",
    "deployment.use_system_site_packages": "RUNQY_USE_SYSTEM_SITE_PACKAGES",
    "recovery.enabled": "RUNQY_RECOVERY_ENABLED",
    "recovery.max_restarts": "RUNQY_RECOVERY_MAX_RESTARTS",
    "recovery.initial_delay": "RUNQY_RECOVERY_INITIAL_DELAY",
    "recovery.max_delay": "RUNQY_RECOVERY_MAX_DELAY",
    "recovery.backoff_factor": "RUNQY_RECOVERY_BACKOFF_FACTOR",
    "recovery.cooldown_period": "RUNQY_RECOVERY_COOLDOWN_PERIOD",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """How children that end are restarted."""

    is_enabled: bool = True
    max_restarts: int = 5
    """After so many restarts in a row without a task done, the next waits for the cooldown."""
    initial_delay_s: float = 1.0
    max_delay_s: float = 60.0
    backoff_factor: float = 2.0
    cooldown_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker process."""

    server_url: str
    api_key: str = field(repr=False)
    queues: tuple[str, ...]
    concurrency: int = 1
    """Tasks held at a time, for each queue."""
    processes: int = 1
    """Children they are spread over."""
    shutdown_timeout_s: float = 30.0
    bootstrap_retries: int = 0
    """How often registering is tried at the start; 0: until it works."""
    bootstrap_retry_delay_s: float = 2.0
    git_ssh_key: str = field(default="", repr=False)
    git_token: str = field(default="", repr=False)
    home: Path = Path(".runqy")
    deployment_dir: Path
    has_system_packages: bool = False
    isolates_children: bool = True
    """Keep children, and what installs their requirements, from reading and signalling other processes."""
    recovery: RecoverySettings = field(default_factory=RecoverySettings)


def load_settings(
    file: Path | None, environ: Mapping[str, str] = os.environ, *, allow_http: bool = False
) -> WorkerSettings:
    """Read the settings; `allow_http` as if the setting were true. Raises WorkerSettingsInvalid with one sentence."""
    values = _Values(_read_file(file, environ) if file else {}, environ)
    defaults = RecoverySettings()
    recovery = RecoverySettings(
        is_enabled=values.parsed("recovery.enabled", _flag, defaults.is_enabled),
        max_restarts=values.parsed("recovery.max_restarts", _whole, defaults.max_restarts),
        initial_delay_s=values.parsed("recovery.initial_delay", _seconds, defaults.initial_delay_s),
        max_delay_s=values.parsed("recovery.max_delay", _seconds, defaults.max_delay_s),
        backoff_factor=values.parsed("recovery.backoff_factor", _factor, defaults.backoff_factor),
        cooldown_s=values.parsed("recovery.cooldown_period", _seconds, defaults.cooldown_s),
    )
    home = Path(environ.get("RUNQY_HOME") or ".runqy").expanduser().absolute()
    server_url = values.parsed("server.url", _server_url, "") or values.missing("server.url")
    if not allow_http and not values.parsed("server.allow_http", _flag, False):
        _require_encryption(server_url)
    return WorkerSettings(
        server_url=server_url,
        api_key=values.text("server.api_key") or values.missing("server.api_key"),
        queues=values.parsed("worker.queues", _names, ()) or values.missing("worker.queues"),
        concurrency=values.parsed("worker.concurrency", _count, 1),
        processes=values.parsed("worker.processes", _count, 1),
        shutdown_timeout_s=values.parsed("worker.shutdown_timeout", _seconds, 30.0),
        bootstrap_retries=values.parsed("bootstrap.retries", _whole, 0),
        bootstrap_retry_delay_s=values.parsed("bootstrap.retry_delay", _seconds, 2.0),
        git_ssh_key=values.text("git.ssh_key"),
        git_token=values.text("git.token"),
        home=home,
        deployment_dir=Path(values.text("deployment.dir") or home / "deployments").expanduser().absolute(),
        has_system_packages=values.parsed("deployment.use_system_site_packages", _flag, False),
        isolates_children=values.parsed("worker.isolate_children", _flag, True),
        recovery=recovery,
    )


class _Values:
    """Settings by their name in the file, as text, the environment first."""

    def __init__(self, file: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ

    def text(self, name: str) -> str:
        """Return a setting; the variable's value may also be in the file that NAME_FILE names."""
        variable = _VARIABLES[name]
        if path := self._environ.get(f"{variable}_FILE"):
            try:
                return Path(path).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise WorkerSettingsInvalid(f"{variable}_FILE: {error}") from error
        return self._environ.get(variable, "").strip() or self._file.get(name, "").strip()

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """Return a setting parsed, or the default when it is not set."""
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise WorkerSettingsInvalid(f"{_VARIABLES[name]} ({name}): {error}.") from error

    def missing(self, name: str) -> Any:
        """Refuse to start without a setting."""
        raise WorkerSettingsInvalid(f"{_VARIABLES[name]} ({name} in the configuration file) is not set.")


def _read_file(file: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the file's settings by dotted name, variables expanded; unknown settings are logged."""
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerSettingsInvalid(f"{file} cannot be read: {error}") from error
    except YAMLError as error:
        raise WorkerSettingsInvalid(f"{file} is not YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise WorkerSettingsInvalid(f"{file} holds no settings.")
    settings = {}
    for section, members in (content or {}).items():
        for name, value in (members if isinstance(members, dict) else {}).items():
            settings[f"{section}.{name}"] = _as_text(value, environ)
    if "worker.queue" in settings:
        settings.setdefault("worker.queues", settings.pop("worker.queue"))
    for unknown in sorted(settings.keys() - _VARIABLES.keys()):
        log.warning("unknown_setting", setting=unknown, file=str(file))
    return settings


def _as_text(value: object, environ: Mapping[str, str]) -> str:
    """Spell a YAML value as an environment variable would, with ${VAR} and ${VAR:-default} filled in."""
    if isinstance(value, list):
        return ",".join(_as_text(part, environ) for part in value)
    if value is None or isinstance(value, dict):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _VARIABLE.sub(lambda match: environ.get(match["name"]) or match["default"] or "", text)


def _server_url(text: str) -> str:
    """Allow http and https URLs, with a path but no credentials."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a URL without credentials and query; the key is a setting of its own")
    return text.rstrip("/")


def _require_encryption(server_url: str) -> None:
    """Raise WorkerSettingsInvalid for an http URL of another machine: the key and secrets would be sent readable."""
    parts = urlsplit(server_url)
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return
    raise WorkerSettingsInvalid(
        "RUNQY_SERVER_URL (server.url in the configuration file) is http, so the API key and the secrets of vaults "
        "would be sent unencrypted. Use https, or allow it in a network that you trust with --allow-http or "
        "RUNQY_ALLOW_HTTP=true (server.allow_http)."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _names(text: str) -> tuple[str, ...]:
    """Read a list separated by commas, each name once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _seconds(text: str) -> float:
    """Read a duration as Go spells it."""
    return durations.parse_ns(text) / 1e9


def _whole(text: str) -> int:
    """Read a whole number from 0."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    """Read a whole number from 1 to 1000."""
    number = _whole(text)
    if not 1 <= number <= 1000:
        raise ValueError("must be from 1 to 1000")
    return number


def _factor(text: str) -> float:
    """Read a factor of at least 1."""
    number = float(text)
    if not 1 <= number <= 100:
        raise ValueError("must be from 1 to 100")
    return number


def _flag(text: str) -> bool:
    """Read a yes or no."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return word in _TRUE
