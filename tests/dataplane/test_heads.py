"""Request heads: complete in time, of bounded size, and with one meaning."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runqy.server.dataplane.protocol import MAX_FIELDS, MAX_HEAD_BYTES, HttpProtocol
from tests.dataplane.servers import (
    Client,
    QuickProtocol,
    build,
    echo,
    parse,
    receive_all,
    receive_reply,
    receive_until,
    serve,
    split,
)
from tests.support.waiting import wait_until

HEAD = "GET /seen HTTP/1.1\r\nHost: x\r\n"
POST = "POST /seen HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("sent", ["G", "GET /seen HTTP/1.1\r\nHo", HEAD])
def test_an_incomplete_head_is_refused_in_time(impatient_client: Client, sent: str) -> None:
    reply = impatient_client.ask_at_once(sent)

    assert (reply.status, reply.code) == (408, "request_timeout")
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_a_connection_without_a_request_is_closed_in_time(impatient_client: Client, sent: bytes) -> None:
    with impatient_client.connect_at_once(sent) as connection:
        assert receive_all(connection) == b""


def test_a_second_head_on_a_connection_has_its_deadline_too(impatient_client: Client) -> None:
    with impatient_client.connect_at_once(f"{HEAD}\r\n") as connection:
        receive_until(connection, b'"body": ""}')
        connection.sendall(b"GET /")
        reply = parse(receive_all(connection))

    assert reply.code == "request_timeout"


def test_a_head_behind_requests_in_progress_has_no_deadline_until_it_is_read() -> None:
    began, may_go_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        began.set()
        assert may_go_on.wait(60)
        return echo(environ, start_response)

    with serve(build(application), QuickProtocol) as client:
        connection = client.connect(f"{HEAD}\r\n")
        assert began.wait(60)
        # The server stops reading at the second request, and has the beginning of the third one.
        connection.sendall(f"{HEAD}\r\nGET /th".encode())
        assert client.ask_at_once("G").status == 408  # as long as a head may take has passed
        may_go_on.set()
        connection.sendall(b"ird HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        replies = split(receive_all(connection))

    assert [json.loads(reply.body)["PATH_INFO"] for reply in replies] == ["/seen", "/seen", "/third"]


def test_an_idle_connection_is_kept_after_a_response(impatient_client: Client) -> None:
    with impatient_client.connect_at_once(f"{HEAD}\r\n") as connection:
        receive_until(connection, b'"body": ""}')
        assert impatient_client.ask_at_once("G").status == 408  # as long as a head may take has passed

        connection.sendall(f"{HEAD}\r\n".encode())
        assert receive_until(connection, b'"body": ""}').startswith(b"HTTP/1.1 200")


def fields(count: int) -> str:
    """Return header fields, all of them short."""
    return "".join(f"X-{number}: 1\r\n" for number in range(count))


def test_a_head_at_the_limits_is_accepted(client: Client) -> None:
    filler = "x" * (MAX_HEAD_BYTES - 2000)
    many = f"{HEAD}{fields(MAX_FIELDS - 2)}Connection: close\r\n\r\n"
    large = f"{HEAD}X-Long: {filler}\r\nConnection: close\r\n\r\n"

    assert client.ask(many).status == 200
    assert client.ask(large).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        f"{HEAD}{fields(MAX_FIELDS)}\r\n",
        f"{HEAD}X-Long: {'x' * MAX_HEAD_BYTES}\r\n\r\n",
        f"GET /{'x' * MAX_HEAD_BYTES} HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + "X-Many: x\r\n" * 4000,
    ],
    ids=["fields", "value", "path", "bytes"],
)
def test_a_head_beyond_the_limits_is_refused(client: Client, sent: str) -> None:
    reply = client.ask(sent)

    assert (reply.status, reply.code) == (431, "headers_too_large")


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (f"{HEAD}X-Endless: ", b"x"),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n1;extension=", b"x"),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nX-Endless: ", b"x"),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: 1\r\n"),
    ],
    ids=["header", "chunk extension", "trailer", "trailers"],
)
def test_endless_chunk_extensions_and_trailers_are_refused(client: Client, begin: str, part: bytes) -> None:
    with client.connect(begin) as connection:
        connection.sendall(part * ((1 << 20) // len(part)))
        reply = parse(receive_all(connection))

    assert (reply.status, reply.code) == (431, "headers_too_large")


def test_trailers_do_not_join_the_headers(client: Client) -> None:
    head = f"{POST}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    reply = client.ask(f"{head}1\r\nx\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")

    seen = json.loads(reply.body)
    assert seen["body"] == "x"
    assert "HTTP_X_FORWARDED_FOR" not in seen


@pytest.mark.parametrize(
    "sent",
    [
        "nonsense\r\n\r\n",
        "GET /seen HTTP/9.9\r\nHost: x\r\n\r\n",
        f"{HEAD}bad header: 1\r\n\r\n",
        f"{HEAD}X-Folded: 1\r\n 2\r\n\r\n",
        f"{HEAD}X-Nul: \x00\r\n\r\n",
        f"{HEAD}Host: y\r\n\r\n",
        "GET seen HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /s\u00e9en HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{POST}Content-Length: 1x\r\n\r\n1",
        f"{POST}Content-Length: -1\r\n\r\n1",
        f"{POST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        f"{POST}Content-Length: 1\r\nContent-Length: 1\r\n\r\n1",
        f"{POST}Content-Length: 1, 1\r\n\r\n1",
        f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        f"{POST}Transfer-Encoding: odd\r\n\r\n",
        f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /seen HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{POST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        f"{POST}Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    ],
)
def test_malformed_and_ambiguous_requests_are_problems(client: Client, sent: str) -> None:
    reply = client.ask(sent)

    assert (reply.status, reply.code) == (400, "invalid_request")
    assert reply.headers["connection"] == "close"


def test_a_refused_client_reads_the_response_while_it_still_sends(patient_client: Client) -> None:
    with patient_client.connect(f"{HEAD}bad header: 1\r\n") as connection:
        receive_until(connection, b"\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"x" * 1000)


@pytest.mark.parametrize("stray", ["}\r\n", "G", "GET /seen HTTP/1.1\r\nbad header: 1\r\n\r\n"])
def test_an_invalid_pipelined_request_does_not_lose_the_previous_response(client: Client, stray: str) -> None:
    reply = client.ask(f"{POST}Content-Length: 1\r\n\r\n1{stray}")

    assert reply.status == 200
    assert json.loads(reply.body)["body"] == "1"


def test_responses_to_pipelined_requests_are_in_order(client: Client) -> None:
    requests = "".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(5))

    with client.connect(f"{requests}GET /5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
        replies = split(receive_all(connection))

    assert [json.loads(reply.body)["PATH_INFO"] for reply in replies] == [f"/{n}" for n in range(6)]


def test_a_new_connection_is_served_while_the_server_stops() -> None:
    class Patient(HttpProtocol):
        unused_timeout_s = 60.0

    with serve(build(echo), Patient) as client:
        connection = client.connect()
        client.get("/accepted-after-it")
        client.server.should_exit = True
        wait_until(lambda: not accepts(client))
        connection.sendall(f"{HEAD}\r\n".encode())
        reply = receive_reply(connection)

    assert (reply.status, reply.headers["connection"]) == (200, "close")


def accepts(client: Client) -> bool:
    """Return whether the server takes connections."""
    try:
        client.connect()
    except ConnectionRefusedError:
        return False
    return True


def test_a_header_with_an_underscore_is_dropped(client: Client) -> None:
    head = f"{HEAD}X_Forwarded_For: 1\r\nX-Forwarded-For: 2\r\nContent_Length: 9\r\nConnection: close\r\n\r\n"

    seen = json.loads(client.ask(head).body)

    assert seen["HTTP_X_FORWARDED_FOR"] == "2"
    assert "CONTENT_LENGTH" not in seen


def test_an_upgrade_request_is_ignored(client: Client) -> None:
    reply = client.ask(f"{HEAD}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")

    assert reply.status == 200
    assert reply.headers["connection"] == "close"
