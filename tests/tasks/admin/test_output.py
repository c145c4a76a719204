"""Output and progress on a task's page, and the part of it that the page polls."""

import re
from typing import Any

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward, forward_due
from runqy.broker.states import TaskState
from runqy.broker.tasks.finish import Failure, retry
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import MAX_ATTEMPTS, MAX_BYTES
from tests.support.redis_client import redis_of
from tests.support.tasks import take_one
from tests.tasks.admin.pages import LIST, change, text
from tests.tasks.task_helpers import say, succeed

PROGRESS = b'{"current":3,"total":10,"message":"<b>resizing</b>"}'


def polled(page: str) -> str:
    """Return the URL that a page polls; empty if it polls none."""
    found = re.search(r'<section[^>]* id="output" hx-get="([^"]+)" hx-trigger="every 2s"', page)
    return found[1].replace("&amp;", "&") if found else ""


def test_output_and_progress_are_shown_and_escaped(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    say(single_broker, taken, b"<script>alert(1)</script>\n", progress=PROGRESS)

    page = text(viewer.get(change("t1")))

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;resizing&lt;/b&gt;" in page
    assert '<progress aria-label="Progress" max="100" value="30">' in page
    assert "3 of 10, 30 %" in page


def test_the_page_polls_until_the_task_has_ended(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    url = polled(text(viewer.get(change("t1"))))

    unchanged = viewer.get(url)
    say(single_broker, taken, b"one\n")
    changed = viewer.get(url)
    succeed(single_broker, taken, b"1")
    ended = viewer.get(polled(text(changed)))

    assert (unchanged.status_code, unchanged.content) == (204, b"")
    assert text(changed).startswith("<section")
    assert "one" in text(changed)
    assert (ended["HX-Refresh"], ended.content) == ("true", b"")
    assert polled(text(viewer.get(change("t1")))) == ""


def test_a_paused_page_polls_nothing_until_it_is_resumed(
    viewer: Client, taken: LeasedTask, single_broker: Broker
) -> None:
    page = text(viewer.get(change("t1")))
    pause = re.search(r'id="output-pause" hx-get="([^"]+)"', page)

    paused = text(viewer.get(pause[1].replace("&amp;", "&")))  # type: ignore[index]
    resume = re.search(r'id="output-pause" hx-get="([^"]+)"', paused)
    resumed = text(viewer.get(resume[1].replace("&amp;", "&")))  # type: ignore[index]

    assert "Paused" in paused
    assert polled(paused) == ""
    assert polled(resumed) == polled(page)


def test_the_page_is_loaded_again_when_another_attempt_begins(
    viewer: Client, taken: LeasedTask, single_broker: Broker
) -> None:
    url = polled(text(viewer.get(change("t1"))))
    failure = Failure(error="boom", retry_at_s=single_broker.now_s() - 1)
    single_broker.run(retry(taken.lease, taken.message, failure, now_ns=single_broker.now_ns()))
    single_broker.run(forward("simple", TaskState.RETRY, now_ns=single_broker.now_ns()))
    take_one(single_broker, "simple")

    assert viewer.get(url)["HX-Refresh"] == "true"


def test_the_page_of_a_deleted_task_is_loaded_again(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    url = polled(text(viewer.get(change("t1"))))
    redis_of(single_broker).flushall()

    response = viewer.get(url)

    assert (response.status_code, response.has_header("HX-Refresh")) == (200, True)


def test_each_attempt_has_a_link(viewer: Client, taken: LeasedTask, single_broker: Broker) -> None:
    say(single_broker, taken, b"of the first\n")
    failure = Failure(error="boom", retry_at_s=single_broker.now_s() - 1)
    single_broker.run(retry(taken.lease, taken.message, failure, now_ns=single_broker.now_ns()))
    single_broker.run(forward("simple", TaskState.RETRY, now_ns=single_broker.now_ns()))
    say(single_broker, take_one(single_broker, "simple"), b"x\n" * MAX_BYTES, is_shared=True)

    latest, first = text(viewer.get(change("t1"))), text(viewer.get(f"{change('t1')}&attempt=1"))

    assert f'href="{change("t1").replace("&", "&amp;")}&amp;attempt=1"' in latest
    assert "The beginning is missing" in latest
    assert "some of this may be theirs" in latest
    assert "of the first" in first
    assert "of the first" not in latest
    assert "attempt=1" in polled(first)


def test_a_finished_task_without_output_has_no_section(
    viewer: Client, taken: LeasedTask, single_broker: Broker
) -> None:
    succeed(single_broker, taken, b"1")

    assert 'id="output"' not in text(viewer.get(change("t1")))


def test_viewers_do_not_see_output_when_payloads_are_hidden(
    viewer: Client, operator: Client, taken: LeasedTask, single_broker: Broker, settings: Any
) -> None:
    settings.RUNQY_HIDE_PAYLOADS = True
    say(single_broker, taken, b"in-the-output\n", progress=b'{"current":1,"message":"in-the-message"}')

    page, by_operator = text(viewer.get(change("t1"))), text(operator.get(change("t1")))

    assert "in-the-" not in page + text(viewer.get(f"{LIST}t1/output/?queue=simple&state=x"))
    assert "Output hidden from your role" in page
    assert "in-the-output" in by_operator


def test_the_page_says_when_output_is_not_kept(viewer: Client, taken: LeasedTask, settings: Any) -> None:
    settings.RUNQY_TASK_OUTPUT = False

    assert "Not kept: see RUNQY_TASK_OUTPUT" in text(viewer.get(change("t1")))


@pytest.mark.parametrize("attempts", [MAX_ATTEMPTS, MAX_ATTEMPTS + 1])
def test_a_page_says_that_only_the_last_attempts_keep_their_output(
    viewer: Client, taken: LeasedTask, single_broker: Broker, attempts: int
) -> None:
    for number in range(1, attempts + 1):
        say(single_broker, taken, f"attempt {number}\n".encode())
        if number < attempts:
            failure = Failure(error="e", retry_at_s=0)
            single_broker.run(retry(taken.lease, taken.message, failure, now_ns=single_broker.now_ns()))
            single_broker.run(forward_due(single_broker, ["simple"]))
            taken = take_one(single_broker, "simple")

    pages = [text(viewer.get(f"{change('t1')}&attempt={number}")) for number in (1, attempts)]

    is_cut = attempts > MAX_ATTEMPTS
    note = f"Output is kept of the last {MAX_ATTEMPTS} attempts that printed anything."
    assert [note in page for page in pages] == [is_cut, is_cut]
    assert ["What this attempt printed is no longer kept." in page for page in pages] == [is_cut, False]
