"""The admin's alert and page for Redis queues that no definition names."""

from typing import Any

import pytest
from django.test import Client

from queues.models import Queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.redis_connection import get_broker
from tests.configuration.support import away
from tests.queues.admin_pages import ADD, FORM, LIST, rows, saved
from tests.queues.samples import spec
from tests.support.staff import staff_client
from tests.support.tasks import put, take

pytestmark = pytest.mark.usefixtures("configuration")

PAGE = f"{LIST}undefined/"


@pytest.fixture
def broker(single_broker: Broker) -> Broker:
    return single_broker


def alerts(client: Client) -> list[str]:
    return [alert.message for alert in client.get("/admin/").context["notices"].shown]


def test_the_overview_warns_of_waiting_tasks_that_no_definition_names(staff: Client, broker: Broker) -> None:
    saved()
    put(broker, "a", "b", queue="lost")
    put(broker, "c", queue="mail")

    expected = "2 tasks cannot run: no definition names the Redis queue lost."
    assert expected in alerts(staff)


def test_running_tasks_of_an_undefined_queue_are_no_alert(staff: Client, broker: Broker) -> None:
    put(broker, "a", queue="lost")
    take(broker, 1, "lost")

    assert not [message for message in alerts(staff) if "no definition names" in message]
    assert "lost" in staff.get(PAGE).content.decode()


@pytest.mark.parametrize(
    ("separator", "redis_queue", "queue"),
    [("_", "lost", ("lost", "")), (".", "lost.default", ("lost", "")), (".", "lost.high", ("lost", "high"))],
)
@pytest.mark.usefixtures("broker")
def test_a_queue_is_defined_for_an_undefined_one(
    staff: Client, settings: Any, separator: str, redis_queue: str, queue: tuple[str, str]
) -> None:
    settings.RUNQY_SUBQUEUE_SEPARATOR, (name, sub_queue), broker = separator, queue, get_broker()
    put(broker, "a", queue=redis_queue)
    url = f"{ADD}?adopt={redis_queue}"
    assert url in staff.get(PAGE).content.decode()

    form = staff.get(url)
    content = form.content.decode()
    subs = [{"name": sub_queue, "priority": 1}] if sub_queue else []
    staff.post(ADD, FORM | {"name": name} | rows("sub_queues", *subs))

    assert form.context["adminform"].form["name"].value() == name
    assert (f'name="sub_queues-0-name" value="{sub_queue}"' in content) is bool(sub_queue)
    assert Queue.objects.get().name == name
    assert get_fresh_catalog().redis_queues() == [redis_queue]
    assert staff.get(PAGE).context["rows"] == []


def test_an_undefined_sub_queue_of_a_defined_queue_leads_to_its_page(
    staff: Client, broker: Broker, settings: Any
) -> None:
    settings.RUNQY_SUBQUEUE_SEPARATOR = "."
    saved(spec("mail", "low:1"))
    put(broker, "a", queue="mail.high")

    assert f"{LIST}by-name/mail/" in staff.get(PAGE).content.decode()


def test_the_page_says_that_redis_is_unavailable(staff: Client, settings: Any) -> None:
    saved()
    settings.REDIS_TARGET = away()

    assert "Redis is unavailable." in staff.get(PAGE).content.decode()


def test_roles_see_what_they_may_do(broker: Broker) -> None:
    saved()
    put(broker, "a", queue="lost")
    viewer, configurator = staff_client("viewer"), staff_client("configurator")

    assert "Adopt" not in viewer.get(PAGE).content.decode()
    assert "Adopt" in configurator.get(PAGE).content.decode()
