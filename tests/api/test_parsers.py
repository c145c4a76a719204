"""Request bodies: which ones are read, and how others are refused."""

import json
from io import BytesIO
from typing import Any

import pytest

from tests.api.wsgi import Answer, call

pytestmark = pytest.mark.usefixtures("configuration")


def code(answer: Answer) -> str:
    """Return the code of the problem that an answer is."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.body
    found: str = json.loads(answer.body)["code"]
    return found


def send(body: bytes, **environ: Any) -> Answer:
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
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    answer = send(body)

    assert (answer.status, code(answer)) == (400, "invalid_request")


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
    answer = call("POST", path, body)

    name = "queue" if path == "/worker/register" else "priority"
    assert (answer.status, json.loads(answer.body)["errors"]) == (400, [f"{name}: a number is out of range"])


def test_a_body_beyond_the_limit_is_refused_unread(settings: Any) -> None:
    settings.RUNQY_MAX_BODY_SIZE = 100_000

    body = BytesIO(b" " * 100_001)

    answer = call("POST", "/queue/add", CONTENT_LENGTH="100001", **{"wsgi.input": body})

    assert (answer.status, code(answer)) == (413, "too_large")
    assert body.tell() == 0


def test_a_body_of_unknown_length_is_refused() -> None:
    body = BytesIO(b'{"queue":"nope","data":{}}')

    answer = call("POST", "/queue/add", CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input": body})

    assert (answer.status, code(answer)) == (411, "length_required")


def test_a_body_that_ends_early_is_refused() -> None:
    answer = send(b'{"queue":"nope","data":{}}', CONTENT_LENGTH="1000")

    assert (answer.status, code(answer)) == (400, "invalid_request")


def test_a_compressed_body_is_refused() -> None:
    answer = send(b"\x1f\x8b", HTTP_CONTENT_ENCODING="gzip")

    assert (answer.status, code(answer)) == (415, "unsupported_encoding")


@pytest.mark.parametrize("length", [5, 100_000])
def test_a_client_that_goes_away_is_no_bug(length: int) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    answer = call("POST", "/queue/add", CONTENT_LENGTH=str(length), **{"wsgi.input": Broken()})

    assert (answer.status, code(answer)) == (400, "invalid_request")


def test_many_members_are_no_problem() -> None:
    members = b",".join(b'"k%d":1' % i for i in range(100_000))

    answer = send(b'{"queue":"nope","data":{' + members + b"}}")

    assert code(answer) == "queue_not_found"
