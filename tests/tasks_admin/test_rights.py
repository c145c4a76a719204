"""Which role may do what to tasks in which state."""

import pytest
from django.contrib.auth.models import Group, Permission, User

from runqy.broker.broker import Broker
from tests.support.staff import staff_client
from tests.support.tasks import listed
from tests.tasks.life import put_in
from tests.tasks_admin.reading import BULK, LIST, change, handle, read

DEEDS = {
    "pending": ["cancel", "archive", "delete"],
    "active": ["cancel"],
    "scheduled": ["run", "cancel", "archive", "delete"],
    "retry": ["run", "cancel", "archive", "delete"],
    "archived": ["run", "delete"],
    "completed": ["run", "delete"],
}
FOR_PICKED = {state: [deed for deed in deeds if deed != "cancel"] for state, deeds in DEEDS.items()} | {
    "active": ["cancel"]
}
FOR_ALL = FOR_PICKED | {"active": [], "completed": ["delete"]}


@pytest.mark.parametrize("state", DEEDS)
@pytest.mark.parametrize(("role", "may_act"), [("viewer", False), ("configurator", False), ("operator", True)])
def test_a_page_offers_what_the_state_and_the_role_allow(
    single_broker: Broker, role: str, may_act: bool, state: str
) -> None:
    put_in(single_broker, state, "t1")
    staff = staff_client(role)

    of_one, of_list = read(staff.get(change("t1"))), read(staff.get(f"{LIST}?queue=simple&state={state}"))

    assert of_one.buttons == (DEEDS[state] if may_act else [])
    assert of_list.buttons == (FOR_PICKED[state] + FOR_ALL[state] if may_act else [])
    assert of_list.ticks == (["t1"] if may_act else [])


@pytest.mark.parametrize("deed", ["run", "cancel", "archive", "delete"])
@pytest.mark.parametrize("role", ["viewer", "configurator"])
def test_nobody_does_by_hand_what_the_page_does_not_offer(single_broker: Broker, role: str, deed: str) -> None:
    put_in(single_broker, "scheduled", "t1")
    staff, form = staff_client(role), {"deed": deed, "confirmed": "yes"}

    answers = [
        staff.post(handle("t1"), form),
        staff.post(BULK, form | {"queue": "simple", "state": "scheduled", "id": "t1"}),
        staff.post(BULK, form | {"queue": "simple", "state": "scheduled", "scope": "all"}),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert listed(single_broker, "simple") == {"scheduled": ["t1"]}


@pytest.mark.parametrize("role", ["viewer", "configurator"])
def test_only_operators_try_a_task(role: str) -> None:
    staff = staff_client(role)

    assert staff.get(f"{LIST}add/").status_code == 403
    assert staff.post(f"{LIST}add/", {"queue": "simple", "payload": "{}"}).status_code == 403
    assert "Try a task" not in staff.get(LIST).content.decode()
    assert "Try a task" in staff_client("operator").get(LIST).content.decode()


def test_where_the_admin_is_read_only_nobody_does_anything_to_tasks(single_broker: Broker, settings) -> None:
    settings.ASYNQ_READ_ONLY = True
    put_in(single_broker, "scheduled", "t1")
    staff = staff_client("admin")
    User.objects.update(is_superuser=True)

    shown = read(staff.get(change("t1"))), read(staff.get(f"{LIST}?queue=simple&state=scheduled"))
    refused = staff.post(handle("t1"), {"deed": "delete", "confirmed": "yes"}), staff.get(f"{LIST}add/")

    assert [page.buttons + page.ticks for page in shown] == [[], []]
    assert [answer.status_code for answer in refused] == [403, 403]
    assert "Try a task" not in staff.get(LIST).content.decode()
    assert listed(single_broker, "simple") == {"scheduled": ["t1"]}


def test_staff_without_the_permission_to_see_tasks_see_none(single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")
    staff = staff_client("viewer")
    Group.objects.get(name="viewer").permissions.remove(Permission.objects.get(codename="view_task"))

    for path in (LIST, f"{LIST}?queue=simple", change("t1"), f"{LIST}t1/payload/"):
        assert staff.get(path).status_code == 403


def test_a_get_does_nothing(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    staff = staff_client("operator")

    assert staff.get(f"{handle('t1')}&deed=delete&confirmed=yes").status_code == 405
    assert staff.get(f"{BULK}?deed=delete&queue=simple&state=archived&scope=all&confirmed=yes").status_code == 405
    assert listed(single_broker, "simple") == {"archived": ["t1"]}
