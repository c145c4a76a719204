"""Payloads, results and errors hidden from viewers by RUNQY_HIDE_PAYLOADS."""

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from tests.support.staff import staff_client
from tests.support.tasks import new_task, put, take_one
from tests.tasks.life import fail_for_good, succeed
from tests.tasks_admin.reading import LIST, change, text

HIDDEN = "hidden by RUNQY_HIDE_PAYLOADS"
SECRETS = ("in-the-payload", "in-the-result", "in-the-error", new_task("t1", "simple", unique_key="k").lock)


@pytest.fixture(autouse=True)
def tasks(queues: None, single_broker: Broker, settings) -> None:
    """Hide payloads; one task succeeded, another failed."""
    settings.RUNQY_HIDE_PAYLOADS = True
    put(single_broker, "t1", queue="simple", payload=b'{"x":"in-the-payload"}', unique_key="k")
    succeed(single_broker, take_one(single_broker, "simple"), b'"in-the-result"')
    put(single_broker, "t2", queue="simple", payload=b'{"x":"in-the-payload"}')
    fail_for_good(single_broker, take_one(single_broker, "simple"), "ValueError: in-the-error")


PAGES = (change("t1"), change("t2"), f"{LIST}?queue=simple&state=completed", f"{LIST}?queue=simple&state=archived")


@pytest.mark.parametrize("path", PAGES)
def test_viewers_see_that_something_is_hidden_but_nothing_of_it(viewer: Client, path: str) -> None:
    shown = text(viewer.get(path))

    assert [secret for secret in SECRETS if secret in shown] == []
    assert (HIDDEN in shown) == ("completed" not in path)


@pytest.mark.parametrize("path", [f"{LIST}t1/payload/", f"{LIST}t1/result/", f"{LIST}t2/payload/"])
def test_viewers_get_no_file(viewer: Client, path: str) -> None:
    answer = viewer.get(path)

    assert answer.status_code == 403
    assert b"in-the" not in answer.content


@pytest.mark.parametrize("role", ["operator", "configurator", "admin"])
def test_who_has_the_permission_sees_all(role: str) -> None:
    staff = staff_client(role)

    shown = "".join(text(staff.get(path)) for path in PAGES)

    assert [secret for secret in SECRETS if secret not in shown] == []
    assert HIDDEN not in shown
    assert staff.get(f"{LIST}t1/payload/").content == b'{"x":"in-the-payload"}'


def test_viewers_see_all_where_nothing_is_hidden(viewer: Client, settings) -> None:
    settings.RUNQY_HIDE_PAYLOADS = False

    shown = "".join(text(viewer.get(path)) for path in PAGES)

    assert [secret for secret in SECRETS if secret not in shown] == []
