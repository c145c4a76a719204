"""What a task streams, on its page, and what the page polls."""

import re
from typing import Any

from django.test import Client

from runqy.broker.broker import Broker
from runqy.broker.tasks.chunks import GAP
from runqy.broker.tasks.lease import LeasedTask
from tests.tasks.admin.pages import change, text
from tests.tasks.task_helpers import drop_chunks, run_again, stream, succeed


def polled(page: str) -> str:
    """Return the URL that the stream on a page polls; empty if it polls none."""
    found = re.search(r'hx-get="([^"]+/stream/[^"]+)"', page)
    return found[1].replace("&amp;", "&") if found else ""


def test_the_page_polls_what_was_streamed_since_until_the_task_has_ended(
    viewer: Client, taken: LeasedTask, single_broker: Broker
) -> None:
    empty = text(viewer.get(change("t1")))
    unchanged = viewer.get(polled(empty))
    stream(single_broker, taken, b'"<b>one"', b'{"n":1}')
    begun = text(viewer.get(polled(empty)))
    stream(single_broker, taken, b'"two"', GAP, b'"four"', offset=2)
    more = text(viewer.get(polled(begun)))
    drop_chunks(single_broker, taken, b'"five"', offset=5)
    succeed(single_broker, taken, b"1")
    end = text(viewer.get(polled(more)))
    ended = text(viewer.get(change("t1")))

    assert (unchanged.status_code, unchanged.content) == (204, b"")
    assert "<span>&lt;b&gt;one{&quot;n&quot;:1}\n</span>" in begun
    assert more.startswith("<span>two\n[1 chunks were dropped, because Redis was full]\nfour</span><span hx-get")
    assert end == "<span>\n[1 chunks were dropped, because Redis was full]\n</span>"
    assert "&lt;b&gt;one" in ended
    assert polled(ended) == ""


def test_another_run_reloads_the_page(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    stream(single_broker, taken, b'"a"')
    url = polled(text(viewer.get(change("t1"))))

    run_again(single_broker, taken)

    assert (viewer.get(url)["HX-Refresh"], viewer.get(url).content) == ("true", b"")


def test_a_task_that_streams_nothing_has_no_section(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    succeed(single_broker, taken, b"1")

    assert 'id="stream"' not in text(viewer.get(change("t1")))


def test_a_stream_is_hidden_like_the_result(
    viewer: Client, taken: LeasedTask, single_broker: Broker, settings: Any
) -> None:
    settings.RUNQY_HIDE_PAYLOADS = True
    url = polled(text(viewer.get(change("t1"))))
    stream(single_broker, taken, b'"a secret"')

    pages = [
        text(viewer.get(change("t1"))),
        text(viewer.get(url)),
        text(viewer.get(url.replace("offset=0", "offset=1"))),
    ]

    assert ["a secret" in page for page in pages] == [False] * 3
    assert "Stream hidden from your role" in pages[0]
