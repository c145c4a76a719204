"""What is no HTTP request is answered with a problem by the real server too, and the connection ends."""

import json
import socket

import pytest

from tests.local.serving import Serve

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Serve(tmp_path_factory.mktemp("serve"), "--migrate", WEB_CONCURRENCY="1").until_ready()
    yield one
    one.end()


def ask(server, request):
    """Send bytes; return the status line, the headers and the body of all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while more := connection.recv(65536):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nbad header: 1\r\n\r\n", 400, "invalid_request"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"POST /queue/add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n", 400, "invalid_request"),
    ],
)
def test_what_cannot_be_read_is_a_problem(server, request_line, status, code):
    line, headers, body = ask(server, request_line)

    found = json.loads(body)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert headers["Content-Type"] == "application/problem+json"
    assert (found["status"], found["code"]) == (status, code)
    assert found["request_id"] == headers["X-Request-ID"]


@pytest.mark.parametrize("path", [b"/livez", b"/nowhere", b"/queue/add"])
def test_an_answer_to_head_has_no_body(server, path):
    line, headers, body = ask(server, b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert line.startswith("HTTP/1.1 ")
    assert int(headers["Content-Length"]) > 0
    assert body == b""
