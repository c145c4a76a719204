"""How responses are written to the connection."""

import socket
from collections.abc import AsyncIterator

from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import Response, StreamingResponse
from tests.dataplane.servers import build, receive_all, serve


def test_pieces_of_all_sizes_arrive_in_order() -> None:
    pieces = [b"a", b"b" * 70_000, b"c", b"d" * 65_536, b"e" * 300_000, b"f" * 9, b""]

    async def stream(_request: ParsedRequest) -> Response | StreamingResponse:
        return StreamingResponse(200, [(b"content-length", b"%d" % sum(map(len, pieces)))], yield_pieces())

    async def yield_pieces() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    with serve(build(lambda *_: [], find_handler=lambda *_: stream)) as client:
        connection = client.connect(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        _, _, body = receive_all(connection).partition(b"\r\n\r\n")

    assert body == b"".join(pieces)


def test_a_client_that_ends_its_side_gets_its_response() -> None:
    async def respond(_request: ParsedRequest) -> Response | StreamingResponse:
        return Response(200, [(b"content-length", b"2")], b"ok")

    with serve(build(lambda *_: [], find_handler=lambda *_: respond)) as client:
        for _ in range(20):
            connection = client.connect(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert receive_all(connection).endswith(b"\r\n\r\nok")
