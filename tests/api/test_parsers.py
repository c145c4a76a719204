"""Request bodies: which ones are read, and how others are refused."""

import json
from io import BytesIO
from typing import Any

import pytest

from tests.api.wsgi import Response, call

pytestmark = pytest.mark.usefixtures("configuration", "each_plane")


def code(response: Response) -> str:
    """Return the code of a problem response."""
    assert response.headers["Content-Type"] == "application/problem+json", response.body
    found: str = json.loads(response.body)["code"]
    return found


def send(body: bytes, **environ: Any) -> Response:
    """Put a body on a path that reads one; a good one ends at a queue that does not exist."""
    return call("POST", "/queue/add", body, **environ)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1]",
        b'"text"',
        b"null",
        b'{"queue":"q","data":{"n":NaN}}',
        b'{"queue":"q","data":{"n":Infinity}}',
        b'{"queue":"q","data":{"n":01}}',
        b'{"queue":"q","data":{}',
        b'{"queue":"q","data":{}} trailing',
        b'{"queue":"q","data":{"s":"\xff"}}',
        b'{"queue":"q","data":{"s":"\xed\xa0\x80"}}',
        b'{"queue":"q","data":{"s":"\\ud800"}}',
        b'{"queue":"q","data":{"s":"line\nbreak"}}',
        b'{"queue":"q","data":{"s":"nul\x00"}}',
        b'\xef\xbb\xbf{"queue":"q"}',
        b'{"queue":"q","data":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
    ],
)
def test_anything_but_a_json_object_is_refused(body: bytes) -> None:
    response = send(body)

    assert (response.status, code(response)) == (400, "invalid_request")


@pytest.mark.parametrize("text", [rb"\ud800", rb"\\\uDBFF ", rb"\ud800 and some more", rb"\ud83d\ude00\ud83d"])
def test_half_a_character_is_named(text: bytes) -> None:
    detail = json.loads(send(b'{"queue":"q","data":{"s":"%s"}}' % text).body)["errors"][0]

    half = text.split()[0].decode()[-6:]
    assert detail == f"The body is not valid JSON: {half} is half of a surrogate pair"


@pytest.mark.parametrize("body", [rb'{"queue":"q","data":{"s":"\\ud800"', rb'{"queue":"q","data":{"s":"\ud83d\ude00'])
def test_a_body_that_is_cut_short_is_called_so(body: bytes) -> None:
    assert "truncated" in json.loads(send(body).body)["errors"][0]


def test_an_empty_body_is_refused_with_what_is_missing() -> None:
    assert json.loads(send(b"").body)["errors"] == ["The body is empty; it must be a JSON object."]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/cli/configs", b'{"name":"q","priority":1e999}'),
        ("/api/keys", b'{"name":"ci","priority":[1,-1e999]}'),
        ("/api/vaults", b'{"name":"v","priority":{"a":1e999}}'),
        ("/worker/register", b'{"queue":1e999}'),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_name_of_its_member(path: str, body: bytes) -> None:
    response = call("POST", path, body)

    name = "queue" if path == "/worker/register" else "priority"
    assert (response.status, json.loads(response.body)["errors"]) == (400, [f"{name}: a number is out of range."])


def test_a_body_beyond_the_limit_is_refused_unread(settings: Any) -> None:
    settings.RUNQY_MAX_BODY_SIZE = 100_000

    body = BytesIO(b" " * 100_001)

    response = call("POST", "/queue/add", CONTENT_LENGTH="100001", **{"wsgi.input": body})

    assert (response.status, code(response)) == (413, "too_large")
    assert body.tell() == 0


def test_a_body_of_unknown_length_is_refused() -> None:
    body = BytesIO(b'{"queue":"nope","data":{}}')

    response = call("POST", "/queue/add", CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input": body})

    assert (response.status, code(response)) == (411, "length_required")


def test_a_body_that_ends_early_is_refused() -> None:
    response = send(b'{"queue":"nope","data":{}}', CONTENT_LENGTH="1000")

    assert (response.status, code(response)) == (400, "invalid_request")


def test_a_compressed_body_is_refused() -> None:
    response = send(b"\x1f\x8b", HTTP_CONTENT_ENCODING="gzip")

    assert (response.status, code(response)) == (415, "unsupported_encoding")


@pytest.mark.parametrize("length", [5, 100_000])
def test_a_client_that_disconnects_is_no_bug(length: int) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    response = call("POST", "/queue/add", CONTENT_LENGTH=str(length), **{"wsgi.input": Broken()})

    assert (response.status, code(response)) == (400, "invalid_request")


def test_many_members_are_no_problem() -> None:
    members = b",".join(b'"k%d":1' % i for i in range(100_000))

    response = send(b'{"queue":"nope","data":{' + members + b"}}")

    assert code(response) == "queue_not_found"
