"""Clients that send slowly, too much or without end do not keep a real server from serving others."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.dataplane.servers import Reply, parse, receive_all
from tests.support.environment import ADMIN_KEY
from tests.support.web import WebProcess

pytestmark = pytest.mark.slow

HALF_HEAD = "GET /livez HTTP/1.1\r\nHost: x\r\n"
SLOW_BODY = f"POST /queue/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture(scope="module")
def upload_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the server's temporary files go."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def shared_web(
    redis_server: None, upload_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebProcess]:
    started = WebProcess(tmp_path_factory.mktemp("web"), TMPDIR=str(upload_folder))
    yield started
    started.kill()


@pytest.fixture
def web(configuration: None, shared_web: WebProcess) -> WebProcess:
    """Return a running server."""
    return shared_web


def test_slow_heads_and_bodies_keep_nobody_waiting_and_time_out(web: WebProcess) -> None:
    served, refused = attack(web)

    assert served == {200}
    assert {reply.code for reply in refused} == {"request_timeout"}


def attack(web: WebProcess) -> tuple[set[int], list[Reply]]:
    """Return the statuses of others' requests beside slow heads and bodies, and the replies to the heads.

    What waited for a body would wait longer than a client does.
    """
    may_end = threading.Event()
    with ExitStack() as stack:
        half_heads = [stack.enter_context(web.connect(HALF_HEAD)) for _ in range(500)]
        slow_bodies = [stack.enter_context(web.connect(SLOW_BODY)) for _ in range(200)]

        def trickle() -> None:
            while not may_end.wait(1):
                for connection in slow_bodies:
                    with suppress(OSError):  # it was refused a while ago
                        connection.send(b"x")

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            served = {web.send(path)[0] for path in ("/livez", "/api/limits") for _ in range(50)}
            return served, [parse(receive_all(connection)) for connection in half_heads]
        finally:
            may_end.set()
            sender.join()


PART = (
    b'--b\r\nContent-Disposition: form-data; name="username"; filename="f"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
LOGIN = "POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"


@pytest.mark.parametrize("is_chunked", [True, False])
def test_an_anonymous_upload_is_refused_before_it_is_written(
    web: WebProcess, upload_folder: Path, is_chunked: bool
) -> None:
    body = PART + b"x" * (5 << 20) + b"\r\n--b--\r\n"
    before = upload_folder.stat().st_mtime_ns

    if is_chunked:
        sent = f"{LOGIN}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    else:
        sent = f"{LOGIN}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with web.connect("") as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has responded, and reads no more
            connection.sendall(sent)
        reply = parse(receive_all(connection))

    assert (reply.status, reply.code) == (413, "too_large")
    assert upload_folder.stat().st_mtime_ns == before


def test_a_malformed_request_is_a_problem_of_the_real_server(web: WebProcess) -> None:
    with web.connect("nonsense\r\n\r\n") as connection:
        reply = parse(receive_all(connection))

    assert (reply.status, reply.code) == (400, "invalid_request")


def test_the_head_and_the_body_of_a_response_arrive_together(web: WebProcess) -> None:
    with web.connect("") as connection:
        for _ in range(50):  # one written after the other would arrive apart now and then
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}" in head.decode().lower()
            assert body
