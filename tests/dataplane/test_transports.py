"""How responses are written to the connection."""

from collections.abc import AsyncIterator

from runqy.dataplane.request import ParsedRequest
from runqy.dataplane.responses import Response, StreamingResponse
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
