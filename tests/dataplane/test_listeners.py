"""A port belongs to one web server from when its master has bound it, before any process listens."""

import logging
import socket
from types import SimpleNamespace

import pytest
import uvloop
from gunicorn.arbiter import Arbiter
from uvicorn import Config

from runqy.dataplane.gunicorn_worker import AcceptingServer
from runqy.dataplane.listeners import bind_listener
from runqy.errors import StackFailed
from runqy.supervisor.ports import require_free_port
from tests.dataplane.servers import build, echo
from tests.support.servers import free_port

SERVER = SimpleNamespace(cfg=SimpleNamespace(is_ssl=False), log=logging.getLogger(__name__))


def bind(port):
    return bind_listener(("127.0.0.1", port), SERVER).sock


async def start(sock):
    """Start uvicorn as a web process does, and close it."""
    config = Config(build(echo), lifespan="off", log_config=None)
    config.load()
    server = AcceptingServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([sock])
    for listening in server.servers:
        listening.close()
        await listening.wait_closed()


def test_bound_port_refuses_connections_and_other_servers():
    port = free_port()
    with bind(port):
        with pytest.raises(StackFailed, match=f"port {port} cannot be used"):
            require_free_port("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_port_is_free_while_connections_of_an_earlier_server_end():
    with socket.create_server(("127.0.0.1", 0)) as earlier:
        port = earlier.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), earlier.accept()[0]:
            earlier.close()

            uvloop.run(start(bind(port)))


def test_process_that_cannot_listen_ends_the_server_with_a_clear_error(caplog):
    port = free_port()
    with socket.socket() as other, bind(port) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()

        with pytest.raises(SystemExit) as ended:
            uvloop.run(start(ours))

    assert ended.value.code == Arbiter.WORKER_BOOT_ERROR
    assert f"port {port} cannot be used: address already in use. Set PORT to another one." in caplog.text
