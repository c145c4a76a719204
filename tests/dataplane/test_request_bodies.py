"""Request bodies: whole before the application sees them, within a size, a time and the memory of the process."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runqy.errors import RequestTimeout
from runqy.server.dataplane.bodies import ANONYMOUS_MAX_BYTES, LARGE_BYTES, PART_BYTES, TIMEOUT_S, Body, BodyReader
from runqy.server.dataplane.request import ParsedRequest
from tests.dataplane.servers import KEY, Client, build, echo, parse, receive_all, receive_until, serve
from tests.support.data_plane import DataPlane
from tests.support.event_loop import SteppedLoop, run_in_steps
from tests.support.event_loop import wait_until as loop_until
from tests.support.staff import staff_client
from tests.support.waiting import wait_until

POST = "POST /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def post(size: int, *, key: str = KEY) -> bytes:
    """Return a request with a body of so many bytes."""
    return f"{POST}{key}Content-Length: {size}\r\n\r\n".encode() + b"x" * size


def chunked(*chunks: bytes, key: str = KEY) -> bytes:
    """Return the beginning of a request with a body in chunks, whose last one may be missing."""
    return f"{POST}{key}Transfer-Encoding: chunked\r\n\r\n".encode() + b"".join(
        b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks
    )


def test_a_chunked_body_gets_a_content_length(client: Client) -> None:
    seen = json.loads(client.ask(chunked(b"ab", b"cde", b"")).body)

    assert (seen["body"], seen["CONTENT_LENGTH"]) == ("abcde", "5")
    assert "HTTP_TRANSFER_ENCODING" not in seen


def test_a_request_without_a_body_has_no_content_length(client: Client) -> None:
    assert "CONTENT_LENGTH" not in json.loads(client.get("/seen").body)


@pytest.mark.parametrize(("key", "limit"), [(KEY, 100_000), ("", 10_000)])
def test_a_body_is_refused_beyond_the_limit(client: Client, key: str, limit: int) -> None:
    assert client.ask(post(limit, key=key)).status == 200
    assert client.ask(post(limit + 1, key=key)).code == "too_large"
    assert client.ask(chunked(b"x" * limit, b"", key=key)).status == 200
    assert client.ask(chunked(b"x" * limit, b"x", b"", key=key)).code == "too_large"


def test_an_announced_body_beyond_the_limit_is_refused_unread(client: Client) -> None:
    reply = client.ask(f"{POST}{KEY}Content-Length: 100001\r\nExpect: 100-continue\r\n\r\n")

    assert (reply.status, reply.code) == (413, "too_large")


def test_expect_100_continue_gets_a_response(client: Client) -> None:
    with client.connect(f"{POST}Content-Length: 1\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert receive_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        connection.sendall(b"x")
        assert json.loads(parse(receive_all(connection)).body)["body"] == "x"


def test_a_client_reads_the_413_while_it_still_sends(client: Client) -> None:
    with client.connect(f"{POST}{KEY}Content-Length: 5000000\r\n\r\n") as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it was slow, and the server has closed its side
            connection.sendall(b"x" * 4_000_000)
        reply = parse(receive_all(connection))

    assert (reply.status, reply.code) == (413, "too_large")
    assert reply.headers["connection"] == "close"


def test_an_endless_chunked_body_is_refused_at_the_limit(client: Client) -> None:
    with client.connect(chunked(b"x" * 1000)) as connection:
        for _ in range(110):
            connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        reply = parse(receive_all(connection))

    assert (reply.status, reply.code) == (413, "too_large")


def test_a_stalled_body_is_refused_in_time(impatient_client: Client) -> None:
    reply = impatient_client.ask_at_once(f"{POST}Content-Length: 10\r\n\r\nx")

    assert (reply.status, reply.code) == (408, "request_timeout")


def test_a_slow_body_is_refused_in_time(impatient_client: Client) -> None:
    ended = threading.Event()

    with impatient_client.connect_at_once(f"{POST}{KEY}Content-Length: 100000\r\n\r\n") as connection:

        def trickle() -> None:
            while not ended.wait(0.05):
                with suppress(OSError):  # it was refused a while ago
                    connection.send(b"x")

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            head = receive_until(connection, b"\r\n\r\n")
        finally:
            ended.set()
            sender.join()

    assert head.startswith(b"HTTP/1.1 408")


def test_a_body_has_more_time_for_each_part_that_has_come() -> None:
    async def act(loop: SteppedLoop) -> None:
        chunks: asyncio.Queue[Any] = asyncio.Queue()
        scope: Any = {"headers": []}
        body = Body(scope, chunks.get, BodyReader(max_bytes=4 * PART_BYTES, memory_bytes=4 * PART_BYTES))
        reading = asyncio.create_task(body.read(is_authenticated=True))
        for size in (PART_BYTES, PART_BYTES, PART_BYTES - 1):
            await loop.step(TIMEOUT_S - 1)
            chunks.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": True})
            await loop_until(chunks.empty)
        await loop.step(1)
        assert not reading.done()

        await loop.step(3)
        with pytest.raises(RequestTimeout):
            await reading

    run_in_steps(act)


def recorder(seen: list[str]) -> Callable[..., Any]:
    """Return an application that records the requested paths."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        return echo(environ, start_response)

    return application


@pytest.mark.parametrize(
    "sent",
    [f"{POST}Content-Length: 10\r\n\r\n123", f"{POST}Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n"],
)
def test_a_truncated_body_never_reaches_the_application(sent: str) -> None:
    seen: list[str] = []
    application = build(recorder(seen))

    with serve(application) as client:
        with client.connect(sent):
            wait_until(lambda: application.bodies.memory.used == 3)
        wait_until(lambda: application.bodies.memory.used == 0)
        client.get("/after")

    assert seen == ["/after"]


def test_bodies_beyond_the_memory_of_the_process_are_refused_until_some_is_free() -> None:
    bodies = BodyReader(max_bytes=100_000, memory_bytes=200_000, anonymous_max_bytes=50_000)
    application = build(echo, bodies=bodies)
    head = f"{POST}{KEY}Content-Length: 90000\r\n\r\n"

    with serve(application) as client:
        first, second = (client.connect(head + "x" * 89_000) for _ in range(2))
        wait_until(lambda: bodies.memory.used == 178_000)
        refused = client.ask(post(90_000))
        with first, second:
            second.sendall(b"x" * 1000)
            assert parse(receive_all(second)).status == 200
            taken = client.ask(post(90_000))

    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "server_busy", "2")
    assert taken.status == 200


def test_large_bodies_of_one_key_leave_room_for_others_and_are_refused_unread() -> None:
    size = 2 * LARGE_BYTES
    bodies = BodyReader(max_bytes=size, memory_bytes=4 * size)

    def head(key: str) -> str:
        return f"{POST}Authorization: Bearer {key}\r\nContent-Length: {size}\r\n\r\n"

    with serve(build(echo, bodies=bodies)) as client:
        for key in ("a", "a", "b"):
            used = bodies.memory.used
            client.connect(head(key))
            wait_until(lambda used=used: bodies.memory.used == used + size)
        refused = client.ask(head("c"))
        assert (refused.code, refused.headers["retry-after"]) == ("server_busy", "2")
        assert client.ask(post(1000)).status == 200
        client.opened[2].close()
        wait_until(lambda: bodies.memory.used == 2 * size)
        assert client.ask(head("a")).code == "server_busy"  # it has half of the memory
        for connection in client.opened:
            connection.close()
        wait_until(lambda: bodies.memory.used == 0)
        assert client.ask(post(size)).status == 200


def test_bodies_without_credentials_use_a_share_of_the_memory_only() -> None:
    bodies = BodyReader(max_bytes=100_000, memory_bytes=200_000, anonymous_max_bytes=50_000)

    with serve(build(echo, bodies=bodies)) as client:
        client.connect(f"{POST}Content-Length: 50000\r\n\r\n{'x' * 49_000}")
        wait_until(lambda: bodies.memory.used == 49_000)
        assert client.ask(post(50_000, key="")).code == "server_busy"
        assert client.ask(post(100_000)).status == 200


def test_memory_is_released_however_a_request_ends() -> None:
    def fail(_environ: object, _start_response: object) -> list[bytes]:
        raise ValueError

    application = build(fail)

    with serve(application) as client:
        assert client.ask(post(100)).code == "internal"
        assert client.ask(chunked(b"x" * 99_999, b"xxx", b"")).code == "too_large"
        client.connect(post(50)[:-1]).close()
        wait_until(lambda: application.bodies.memory.used == 0)


def test_the_session_is_read_for_large_bodies_only() -> None:
    reads: list[str] = []

    def has_session(request: ParsedRequest) -> bool:
        reads.append(request.cookie("session"))
        return request.cookie("session") == "right"

    with serve(build(echo, has_session=has_session)) as client:
        statuses = [
            client.ask(post(size, key=f"Cookie: a=b; session={session}\r\n")).status
            for size, session in ((10_000, "right"), (10_001, "right"), (10_001, "wrong"))
        ]

    assert statuses == [200, 200, 413]
    assert reads == ["right", "wrong"]


@pytest.mark.usefixtures("configuration")
def test_a_session_without_a_user_allows_no_large_body(data_plane: DataPlane) -> None:
    session = staff_client("viewer").cookies["runqy_session"].value
    body = b"x" * (ANONYMOUS_MAX_BYTES + 1)

    def status(cookie: str) -> int:
        headers = {"cookie": f"runqy_session={cookie}", "content-type": "text/plain"}
        return data_plane.send("POST", "/admin/queues/queue/", headers, body).status_code

    assert [status("x" * 32), status('"\\000aaaaaaaa"'), status(""), status(session)] == [413, 413, 413, 403]
