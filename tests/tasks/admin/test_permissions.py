"""The actions on tasks that a role and a state allow in the admin."""

import pytest
from django.contrib.auth.models import Group, Permission, User

from runqy.broker.broker import Broker
from tasks.models import BulkAction
from tests.support.staff import staff_client
from tests.support.tasks import listed
from tests.tasks.admin.pages import BULK, LIST, REQUEST, action_url, change, read
from tests.tasks.task_helpers import put_in

ACTIONS = {
    "pending": ["cancel", "archive", "delete"],
    "active": ["cancel"],
    "scheduled": ["run", "cancel", "archive", "delete"],
    "retry": ["run", "cancel", "archive", "delete"],
    "archived": ["run", "delete"],
    "completed": ["run", "delete"],
}
FOR_SELECTED = {state: [action for action in actions if action != "cancel"] for state, actions in ACTIONS.items()} | {
    "active": ["cancel"]
}
FOR_ALL = {
    "pending": ["cancel", "archive", "delete"],
    "active": ["cancel"],
    "scheduled": ["run", "cancel", "archive", "delete"],
    "retry": ["run", "cancel", "archive", "delete"],
    "archived": ["run", "delete"],
    "completed": ["run", "delete"],
}


@pytest.mark.parametrize("state", ACTIONS)
@pytest.mark.parametrize(("role", "may_act"), [("viewer", False), ("configurator", False), ("operator", True)])
def test_a_page_offers_what_the_state_and_the_role_allow(
    single_broker: Broker, role: str, may_act: bool, state: str
) -> None:
    put_in(single_broker, state, "t1")
    staff = staff_client(role)

    task_page, list_page = read(staff.get(change("t1"))), read(staff.get(f"{LIST}?queue=simple&state={state}"))

    assert task_page.buttons == (ACTIONS[state] if may_act else [])
    assert list_page.buttons == (FOR_SELECTED[state] if may_act else [])
    assert list_page.bulk_actions == (FOR_ALL[state] if may_act else [])
    assert list_page.checkboxes == (["t1"] if may_act else [])


@pytest.mark.parametrize("action", ["run", "cancel", "archive", "delete"])
@pytest.mark.parametrize("role", ["viewer", "configurator"])
def test_actions_that_the_page_does_not_offer_are_forbidden(single_broker: Broker, role: str, action: str) -> None:
    put_in(single_broker, "scheduled", "t1")
    staff, form = staff_client(role), {"action": action, "confirmed": "yes"}

    responses = [
        staff.post(action_url("t1"), form),
        staff.post(BULK, form | {"queue": "simple", "state": "scheduled", "id": "t1"}),
        staff.get(REQUEST, form | {"queue": "simple", "state": "scheduled"}),
        staff.post(REQUEST, form | {"queue": "simple", "state": "scheduled"}),
    ]

    assert [response.status_code for response in responses] == [403, 403, 403, 403]
    assert not BulkAction.objects.exists()
    assert listed(single_broker, "simple") == {"scheduled": ["t1"]}


@pytest.mark.parametrize("role", ["viewer", "configurator"])
def test_only_operators_test_a_task(role: str) -> None:
    staff = staff_client(role)

    assert staff.get(f"{LIST}add/").status_code == 403
    assert staff.post(f"{LIST}add/", {"queue": "simple", "payload": "{}"}).status_code == 403
    assert "Test a task" not in staff.get(LIST).content.decode()
    assert "Test a task" in staff_client("operator").get(LIST).content.decode()


def test_a_read_only_admin_allows_no_action_on_tasks(single_broker: Broker, settings) -> None:
    settings.ASYNQ_READ_ONLY = True
    put_in(single_broker, "scheduled", "t1")
    staff = staff_client("admin")
    User.objects.update(is_superuser=True)

    visible = read(staff.get(change("t1"))), read(staff.get(f"{LIST}?queue=simple&state=scheduled"))
    refused = staff.post(action_url("t1"), {"action": "delete", "confirmed": "yes"}), staff.get(f"{LIST}add/")

    assert [page.buttons + page.checkboxes for page in visible] == [[], []]
    assert [response.status_code for response in refused] == [403, 403]
    assert "Test a task" not in staff.get(LIST).content.decode()
    assert listed(single_broker, "simple") == {"scheduled": ["t1"]}


def test_users_without_the_permission_to_view_tasks_see_none(single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")
    staff = staff_client("viewer")
    Group.objects.get(name="viewer").permissions.remove(Permission.objects.get(codename="view_task"))

    for path in (LIST, f"{LIST}?queue=simple", change("t1"), f"{LIST}t1/payload/"):
        assert staff.get(path).status_code == 403


def test_get_requests_apply_no_action(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    staff = staff_client("operator")

    assert staff.get(f"{action_url('t1')}&action=delete&confirmed=yes").status_code == 405
    assert staff.get(f"{BULK}?action=delete&queue=simple&state=archived&id=t1&confirmed=yes").status_code == 405
    assert staff.get(f"{REQUEST}?action=delete&queue=simple&state=archived").status_code == 200
    assert not BulkAction.objects.exists()
    assert listed(single_broker, "simple") == {"archived": ["t1"]}
