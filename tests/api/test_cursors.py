"""Cursors are signed: a changed one is refused."""

import base64
import json

import msgspec
import pytest

from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.tasks.listing import Anchor
from runqy.errors import RequestInvalid
from tests.api.client import ApiClient, problem

CURSOR = Anchor(id="a", position="1", depth=(1 << 40) - 1)


def forged(position: object) -> str:
    """Return a position as it stood in queries before cursors were signed."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def test_a_cursor_of_the_server_is_read() -> None:
    assert decode_cursor(encode_cursor(CURSOR, "tasks"), Anchor, "tasks") == CURSOR


def test_a_cursor_that_was_changed_is_refused() -> None:
    position, _, signature = encode_cursor(CURSOR).partition(".")
    other = forged(json.loads(base64.urlsafe_b64decode(position + "===")) | {"id": "other"})

    for text in (position, other, f"{other}.{signature}", f"{position}.{signature[:-1]}"):
        with pytest.raises(RequestInvalid, match="cursor: Invalid or from another list"):
            decode_cursor(text, Anchor)


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="cursor: Invalid or from another list"):
        decode_cursor(encode_cursor(CURSOR, "tasks a"), Anchor, "tasks b")


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize(
    ("path", "position"),
    [
        ("/api/cli/queues/q/tasks", CURSOR),
        ("/api/keys", 10**30),
        ("/api/vaults/v/entries/K/versions", 10**30),
        ("/api/vaults/v/deliveries", 10**30),
    ],
)
def test_a_forged_cursor_is_refused_by_every_list(path: str, position: object) -> None:
    response = ApiClient().get(f"{path}?cursor={forged(position)}")

    assert response.status_code == 400, response.content
    assert problem(response)["code"] == "invalid_request"
