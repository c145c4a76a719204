"""The worker's settings, from a YAML file and from the environment, which has precedence."""

import os
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from runqy.core.environment.variables import Environment, InvalidSetting, parse_count, parse_words, warn_of_removed
from runqy.errors import WorkerSettingsInvalid

log = structlog.get_logger()

ALL_QUEUES = ("*",)
"""All queues that the API key may register for, including queues that are created later."""
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
VARIABLES = {
    "server.url": "RUNQY_SERVER_URL",
    "server.api_key": "RUNQY_API_KEY",
    "server.allow_http": "RUNQY_ALLOW_HTTP",
    "worker.queues": "RUNQY_QUEUES",
    "worker.concurrency": "RUNQY_CONCURRENCY",
    "worker.processes": "RUNQY_PROCESSES",
    "worker.shutdown_timeout": "RUNQY_SHUTDOWN_TIMEOUT",
    "worker.idle_exit": "RUNQY_IDLE_EXIT",
    "worker.max_tasks": "RUNQY_MAX_TASKS",
    "worker.isolate_children": "RUNQY_ISOLATE_CHILDREN",
    "bootstrap.retries": "RUNQY_BOOTSTRAP_RETRIES",
    "bootstrap.retry_delay": "RUNQY_BOOTSTRAP_RETRY_DELAY",
    "git.ssh_key": "RUNQY_GIT_SSH_KEY",
    "git.token": "RUNQY_GIT_TOKEN",
    "deployment.dir": "RUNQY_DEPLOYMENT_DIR",
    "deployment.local_dir": "RUNQY_LOCAL_DIR",
    "deployment.use_system_site_packages": "RUNQY_USE_SYSTEM_SITE_PACKAGES",
    "deployment.max_deployment_bytes": "RUNQY_MAX_DEPLOYMENT_BYTES",
    "recovery.enabled": "RUNQY_RECOVERY_ENABLED",
    "recovery.max_restarts": "RUNQY_RECOVERY_MAX_RESTARTS",
    "recovery.initial_delay": "RUNQY_RECOVERY_INITIAL_DELAY",
    "recovery.max_delay": "RUNQY_RECOVERY_MAX_DELAY",
    "recovery.backoff_factor": "RUNQY_RECOVERY_BACKOFF_FACTOR",
    "recovery.cooldown_period": "RUNQY_RECOVERY_COOLDOWN_PERIOD",
}
# Delete these two with the release after 1.0.
_REMOVED_NAMES = {
    "worker.termination_grace": "RUNQY_TERMINATION_GRACE",
    "worker.max_age": "RUNQY_MAX_AGE",
    "deployment.max_checkout_bytes": "RUNQY_MAX_CHECKOUT_BYTES",
    "deployment.keep_releases": "RUNQY_KEEP_RELEASES",
}
REMOVED_VARIABLES = {
    "RUNQY_TERMINATION_GRACE": "It is 1 s, for children that do not accept cancel.",
    "RUNQY_MAX_AGE": "The worker does not end at an age; RUNQY_MAX_TASKS or `runqy worker drain` end it.",
    "RUNQY_MAX_CHECKOUT_BYTES": "A checkout may take a tenth of RUNQY_MAX_DEPLOYMENT_BYTES.",
    "RUNQY_KEEP_RELEASES": "Three deployments of each queue are kept.",
}
_NAMES_IN_FILE = VARIABLES | _REMOVED_NAMES
_KEY_FILE, _STDIN = "RUNQY_API_KEY_FILE", "/dev/stdin"
_LABELS = {variable: f"{name} in the configuration file" for name, variable in _NAMES_IN_FILE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSettings:
    """How children that end are restarted."""

    is_enabled: bool = True
    max_restarts: int = 5
    """After this many restarts without a completed task, the next restart waits for the cooldown."""
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
    concurrency: int | None = None
    """The maximum number of leased tasks, for each queue; None: what its children announce."""
    processes: int = 1
    """The number of children of a long_running queue, over which its tasks are spread."""
    shutdown_timeout_s: float = 30.0
    idle_exit_s: float = 0
    """Drain after this time without a task; 0: never."""
    max_tasks: int = 0
    """Drain after this many tasks of a queue; 0: never."""
    bootstrap_retries: int = 0
    """The number of attempts to register at the start; 0: no limit."""
    bootstrap_retry_delay_s: float = 2.0
    git_ssh_key: str = field(default="", repr=False)
    git_token: str = field(default="", repr=False)
    home: Path = Path(".runqy")
    deployment_dir: Path
    local_dir: Path | None = None
    """A folder whose code runs, instead of a checkout."""
    has_system_packages: bool = False
    max_deployment_bytes: int = 20 << 30
    """The limit of a virtual environment and the queue's package cache together; a tenth of it that of a checkout."""
    isolates_children: bool = True
    """Prevent children, and the installation of their requirements, from reading and signalling other processes."""
    restarts: RestartSettings = field(default_factory=RestartSettings)


def load_settings(file: Path | None, *, allow_http: bool = False) -> WorkerSettings:
    """Read the settings. `allow_http` overrides that setting. Raise WorkerSettingsInvalid."""
    content = _read_file(file) if file else {}
    fallbacks = {variable: content[name] for name, variable in _NAMES_IN_FILE.items() if name in content}
    if os.environ.get(_KEY_FILE) == _STDIN:
        del os.environ[_KEY_FILE]
        fallbacks["RUNQY_API_KEY"] = _read_stdin()
    env = Environment(fallbacks, _LABELS)
    warn_of_removed(env.find_removed(REMOVED_VARIABLES))
    try:
        return read(env, allow_http=allow_http)
    except InvalidSetting as error:
        raise WorkerSettingsInvalid(str(error)) from error


def read(env: Environment, *, allow_http: bool = False) -> WorkerSettings:
    """Read the settings from variables. Raise InvalidSetting or WorkerSettingsInvalid."""
    settings = WorkerSettings(
        server_url=_read_server_url(env, allow_http=allow_http),
        api_key=env.required(
            "RUNQY_API_KEY", str, help="a key with the role `worker`; [where tasks cannot read it](#the-api-key)"
        ),
        queues=env.required(
            "RUNQY_QUEUES",
            _queues,
            help="comma-separated queues; the name of a queue selects all its sub-queues. `*`: [all queues]"
            "(#all-queues)",
        ),
        deployment_dir=Path(),
    )
    for read_section in (_read_worker, _read_bootstrap, _read_git, _read_deployment):
        settings = read_section(env, settings)
    return replace(settings, restarts=_read_recovery(env))


def _read_server_url(env: Environment, *, allow_http: bool) -> str:
    server_url = env.required("RUNQY_SERVER_URL", _server_url, help="the server")
    is_allowed = env.flag(
        "RUNQY_ALLOW_HTTP",
        help="accept an `http://` server on another machine, like `--allow-http`; the key and all secrets are then "
        "sent unencrypted",
    )
    if not (allow_http or is_allowed):
        _require_encryption(server_url)
    return server_url


def _read_worker(env: Environment, settings: WorkerSettings) -> WorkerSettings:
    return replace(
        settings,
        concurrency=env.parsed(
            "RUNQY_CONCURRENCY",
            _concurrency,
            settings.concurrency,
            shown_default="what the children can run at once",
            help="the most tasks held at a time, for each queue ([below](#how-many-tasks-a-worker-holds))",
        ),
        processes=env.count(
            "RUNQY_PROCESSES",
            settings.processes,
            lowest=1,
            highest=1000,
            help="`long_running` children of each queue, over which its tasks are spread",
        ),
        shutdown_timeout_s=env.fraction_of_seconds(
            "RUNQY_SHUTDOWN_TIMEOUT",
            settings.shutdown_timeout_s,
            help="how long running tasks may take to end when the worker stops",
        ),
        idle_exit_s=env.fraction_of_seconds(
            "RUNQY_IDLE_EXIT",
            settings.idle_exit_s,
            help="[drain and exit](#draining) after this time without a task; 0: never",
        ),
        max_tasks=env.count(
            "RUNQY_MAX_TASKS",
            settings.max_tasks,
            help="drain and exit after this many tasks, which is never exceeded; 0: no limit",
        ),
        isolates_children=env.flag(
            "RUNQY_ISOLATE_CHILDREN",
            default=settings.isolates_children,
            help="prevent children from reading and signalling other processes ([below](#isolation))",
        ),
    )


def _read_bootstrap(env: Environment, settings: WorkerSettings) -> WorkerSettings:
    return replace(
        settings,
        bootstrap_retries=env.count(
            "RUNQY_BOOTSTRAP_RETRIES",
            settings.bootstrap_retries,
            help="number of attempts to register at the start; 0: unlimited",
        ),
        bootstrap_retry_delay_s=env.fraction_of_seconds(
            "RUNQY_BOOTSTRAP_RETRY_DELAY",
            settings.bootstrap_retry_delay_s,
            help="delay after the first attempt; grows to 30 s, but only to 5 s while the server lacks a vault or "
            "its configuration",
        ),
    )


def _read_git(env: Environment, settings: WorkerSettings) -> WorkerSettings:
    return replace(
        settings,
        git_ssh_key=env.text("RUNQY_GIT_SSH_KEY", help="private key for ssh: a path or the key itself"),
        git_token=env.text(
            "RUNQY_GIT_TOKEN", help="access token (or `user:token`) for https, for queues without their own"
        ),
    )


def _read_deployment(env: Environment, settings: WorkerSettings) -> WorkerSettings:
    home = env.path(
        "RUNQY_HOME",
        settings.home.absolute(),
        shown_default="`./.runqy`",
        help="folder of deployments and of the worker's own files",
    )
    return replace(
        settings,
        home=home,
        deployment_dir=env.path(
            "RUNQY_DEPLOYMENT_DIR",
            home / "deployments",
            shown_default="`$RUNQY_HOME/deployments`",
            help="checkouts and virtual environments",
        ),
        local_dir=env.parsed(
            "RUNQY_LOCAL_DIR",
            lambda text: Path(text).expanduser().absolute(),
            settings.local_dir,
            shown_default="code from git",
            help="run the code of this folder as it is, [without git](#code-of-a-local-folder)",
        ),
        has_system_packages=env.flag(
            "RUNQY_USE_SYSTEM_SITE_PACKAGES", help="let tasks import the packages of the machine's Python"
        ),
        max_deployment_bytes=env.size(
            "RUNQY_MAX_DEPLOYMENT_BYTES",
            settings.max_deployment_bytes,
            help="the largest virtual environment together with the queue's cache of packages. A tenth of it is the "
            "largest checkout, with `.git`, and the largest of its files",
        ),
    )


def _read_recovery(env: Environment) -> RestartSettings:
    defaults = RestartSettings()
    return RestartSettings(
        is_enabled=env.flag(
            "RUNQY_RECOVERY_ENABLED",
            default=defaults.is_enabled,
            help="restart children that ended unexpectedly: immediately if they died while running a task, else "
            "after a delay",
        ),
        max_restarts=env.count(
            "RUNQY_RECOVERY_MAX_RESTARTS",
            defaults.max_restarts,
            help="restarts in a row without a completed task before the cooldown; 0: unlimited",
        ),
        initial_delay_s=env.fraction_of_seconds(
            "RUNQY_RECOVERY_INITIAL_DELAY", defaults.initial_delay_s, help="delay before the first restart"
        ),
        max_delay_s=env.fraction_of_seconds(
            "RUNQY_RECOVERY_MAX_DELAY", defaults.max_delay_s, help="the longest delay before a restart"
        ),
        backoff_factor=env.parsed(
            "RUNQY_RECOVERY_BACKOFF_FACTOR",
            _factor,
            defaults.backoff_factor,
            help="growth of the delay with each restart",
        ),
        cooldown_s=env.fraction_of_seconds(
            "RUNQY_RECOVERY_COOLDOWN_PERIOD", defaults.cooldown_s, help="delay after too many restarts"
        ),
    )


def _read_file(file: Path) -> dict[str, str]:
    """Return the file's settings by dotted name, with variables expanded. Unknown settings are logged."""
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerSettingsInvalid(f"{file} cannot be read: {error}") from error
    except YAMLError as error:
        raise WorkerSettingsInvalid(f"{file} is not YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise WorkerSettingsInvalid(f"{file} contains no settings.")
    settings = {}
    for section, members in (content or {}).items():
        for name, value in (members if isinstance(members, dict) else {}).items():
            settings[f"{section}.{name}"] = _as_text(value)
    if "worker.queue" in settings:
        settings.setdefault("worker.queues", settings.pop("worker.queue"))
    for unknown in sorted(settings.keys() - _NAMES_IN_FILE.keys()):
        log.warning("unknown_setting", setting=unknown, file=str(file))
    return settings


def _read_stdin() -> str:
    """Return what is on standard input, and leave an empty one. Raise WorkerSettingsInvalid.

    It is not opened by its name, which would need the right to read the file behind it: the worker's user lacks it.
    """
    try:
        with open(0, encoding="utf-8", closefd=False) as stdin:
            key = stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerSettingsInvalid(f"{_KEY_FILE}: standard input cannot be read: {error}") from error
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return key


def _as_text(value: object) -> str:
    """Format a YAML value as an environment variable. Expand ${VAR} and ${VAR:-default}."""
    if isinstance(value, list):
        return ",".join(_as_text(part) for part in value)
    if value is None or isinstance(value, dict):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _VARIABLE.sub(lambda match: os.environ.get(match["name"]) or match["default"] or "", text)


def _server_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("Must be an http or https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("Must be a URL without credentials and query; set the API key separately")
    return text.rstrip("/")


def _require_encryption(server_url: str) -> None:
    """Raise WorkerSettingsInvalid for an http URL of another machine."""
    parts = urlsplit(server_url)
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return
    raise WorkerSettingsInvalid(
        "RUNQY_SERVER_URL (server.url in the configuration file) is http, so the API key and the secrets of vaults "
        "would be sent unencrypted. Use https, or allow it in a trusted network with --allow-http or "
        "RUNQY_ALLOW_HTTP=true (server.allow_http)."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _queues(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list, without duplicates, or `*`."""
    queues = tuple(dict.fromkeys(parse_words(text)))
    if "*" in queues and queues != ALL_QUEUES:
        raise ValueError("* means all queues and cannot be combined with names")
    return queues


def _concurrency(text: str) -> int | None:
    return parse_count(text, 1, 1000)


def _factor(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 100:
        raise ValueError("Must be from 1 to 100")
    return number
