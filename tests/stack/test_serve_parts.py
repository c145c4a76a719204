"""`runqy serve --only web` and `--only maintenance` are one process for a service manager, without a supervisor."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from tests.support.processes import get_command_line
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

WITH_SOCKET = 'exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
"""systemd passes a socket as descriptor 3, and names the process that it is for."""


def test_web_alone_replaces_the_command_and_runs_no_maintenance(serve):
    server = serve("--only", "web")

    wait_until(server.responds, timeout_s=90)
    command = get_command_line(server.process.pid)
    _, readiness = server.request("GET", "/readyz?verbose")

    assert "runqy.server.dataplane.gunicorn_app" in command
    assert "There are unapplied migrations" in str(readiness)
    assert server.end() == 0


def test_maintenance_alone_replaces_the_command_and_stops(serve):
    maintenance = serve("--only", "maintenance")

    wait_until(lambda: "Running duties: " in maintenance.output, timeout_s=90)
    command = get_command_line(maintenance.process.pid)

    assert "run_maintenance" in command
    assert maintenance.end() == 0


def test_missing_redis_is_an_error_that_names_the_setting(serve):
    server = serve("--only", "maintenance", REDIS_URL="")

    assert server.process.wait(timeout=60) == 1
    assert "no Redis is configured: set REDIS_URL" in server.output


@pytest.mark.parametrize("options", [(), ("--only", "web")])
def test_taken_port_is_an_error_of_one_line(serve, options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(*options, PORT=str(port))

        assert server.process.wait(timeout=60) == 1
    errors = [line for line in server.output.splitlines() if "Starting gunicorn" not in line]
    assert errors == [f"runqy serve: port {port} cannot be used: address already in use. Set PORT to another one."]


def test_connections_to_a_passed_socket_wait_while_the_server_restarts(redis_server, tmp_path):
    statuses = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        waiting = threading.Thread(target=lambda: statuses.append(get_status(port)))

        with running_web(listener, tmp_path):
            statuses.append(get_status(port))
        waiting.start()
        with running_web(listener, tmp_path):
            waiting.join(90)

    assert statuses == [200, 200]


@contextmanager
def running_web(listener, home):
    """Run the web server with a socket that it shares with this process, as it does with systemd."""
    variables = {"RUNQY_HOME": str(home), "WEB_CONCURRENCY": "1", "PORT": str(listener.getsockname()[1])}
    # The address is that of the socket: the server would stop listening if it were its own.
    command = [sys.executable, "-P", "-m", "runqy.cli", "serve", "--only", "web", "--host", "127.0.0.1"]
    process = subprocess.Popen(["sh", "-c", WITH_SOCKET, "sh", *command], env=os.environ | variables, stdin=listener)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


def get_status(port):
    """Return the status of a response for which the client waits; 0 if the connection is refused or reset."""
    with socket.socket() as client:
        client.settimeout(90)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(client.recv(4096).split()[1])
        except OSError:
            return 0
