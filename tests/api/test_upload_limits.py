"""Unexpected uploads are limited before they are read, and never written to a folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.database import database_variables
from tests.support.environment import ADMIN_KEY
from tests.support.web import ASGI, WSGI, WebProcess

pytestmark = pytest.mark.slow

LIMIT = 8 << 20
HEAD = (
    "POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\nContent-Type: text/plain\r\n\r\n'
END = b"\r\n--b--\r\n"


@pytest.fixture(params=[ASGI, WSGI], ids=["data_plane", "wsgi"])
def web(request: pytest.FixtureRequest, configuration: None, tmp_path: Path) -> Iterator[WebProcess]:
    """Return a server whose temporary folder is its own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    gunicorn: Sequence[str] = request.param
    process = WebProcess(tmp_path, gunicorn, TMPDIR=str(folder), RUNQY_MAX_BODY_SIZE=str(LIMIT), **database_variables())
    yield process
    process.kill()


def deleted_and_open(web: WebProcess) -> int:
    """Return how many bytes of the temporary folder the server's processes have open, deleted files included."""
    total = 0
    for worker in web.workers():
        for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
            with suppress(OSError):
                if "/tmp/" in os.readlink(descriptor) and "upload" in os.readlink(descriptor):
                    total += os.stat(descriptor).st_size
    return total


def send(web: WebProcess, head: str, *chunks: bytes) -> tuple[int, int]:
    """Send a request slowly while measuring what the server stores; return the status and the maximum of bytes."""
    most = 0
    with web.connect(head) as connection:
        for chunk in chunks:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(chunk)
            most = max(most, deleted_and_open(web))
        return int(connection.recv(4096).split(b" ")[1]), most


def test_a_form_beyond_the_limit_is_refused_and_nothing_is_written(web: WebProcess) -> None:
    chunks = [PART, *[b"x" * (LIMIT // 4)] * 8, END]
    length = sum(map(len, chunks))

    status, most = send(web, f"{HEAD}Content-Length: {length}\r\n\r\n", *chunks)

    assert (status, most) == (413, 0)


def test_an_endless_chunked_form_is_not_written(web: WebProcess) -> None:
    chunks = [PART, *[b"x" * (LIMIT // 4)] * 8]

    status, most = send(
        web,
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n",
        *[b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks],
    )

    assert status in (403, 413)
    assert most == 0


def test_a_form_within_the_limit_is_kept_in_memory(web: WebProcess) -> None:
    body = [PART, *[b"x" * 500_000] * 10, END]  # more than Django keeps in memory by itself
    length = sum(map(len, body))

    status, most = send(web, f"{HEAD}Authorization: Bearer {ADMIN_KEY}\r\nContent-Length: {length}\r\n\r\n", *body)

    assert (status, most) == (403, 0)
