"""Queues in the admin."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client

from queues.admin.forms import shown_values
from queues.config import parse_queue_file
from queues.definitions import FieldType, PayloadField, StatedLimits
from queues.models import Queue, Source
from queues.operations import save_queue
from queues.queries import get_catalog
from runqy.audit.models import AuditRecord
from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.staff.roles import grant_roles
from tests.publication.support import away
from tests.queues.samples import spec
from tests.queues.test_saving import RICH
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

LIST = "/admin/queues/queue/"
ADD = f"{LIST}add/"


def rows(name: str, *given: dict[str, Any]) -> dict[str, Any]:
    """Return what a form sends for rows."""
    sent = {f"{name}-TOTAL_FORMS": len(given), f"{name}-INITIAL_FORMS": 0}
    return sent | {f"{name}-{place}-{cell}": value for place, row in enumerate(given) for cell, value in row.items()}


FORM = {
    "name": "mail",
    "is_enabled": "on",
    "priority": "5",
    "mode": "one_shot",
    "order": "strict",
    "git_url": "https://h/r.git",
    "branch": "main",
    "code_path": "",
    "startup_cmd": "python main.py",
    "startup_timeout_secs": "60",
    "requirements_file": "requirements.txt",
    "env_vars": "A=1",
    "redis_storage": "on",
    "git_token": "",
    "max_retry": "4",
    **rows("sub_queues"),
    **rows("vaults"),
    **rows("input", {"name": "x", "type": ["int"], "default": "7"}),
    **rows("output"),
}


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return the browser of somebody who may do everything."""
    return admin_client


def as_role(role: str) -> Client:
    """Return the browser of somebody of a role."""
    grant_roles(apps)  # emptying the database after a test takes what migrations have made
    user = User.objects.create_user(f"the-{role}", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def saved(one=None) -> Queue:
    """Save a queue."""
    return save_queue(spec=one or spec("mail"), source=Source.ADMIN)


def page_of(queue: Queue, what: str = "change") -> str:
    return f"{LIST}{queue.pk}/{what}/"


def sent_by(client: Client, queue: Queue) -> dict[str, Any]:
    """Return what the page of a queue sends when nothing is changed on it."""
    form = client.get(page_of(queue)).context["adminform"].form
    values = shown_values(queue.as_spec()) | {"version": form["version"].value()}
    sent: dict[str, Any] = {}
    for name, value in values.items():
        sent |= rows(name, *value) if name in ("sub_queues", "vaults", "input", "output") else {name: value}
    return {name: value for name, value in sent.items() if value is not None and value is not False}


def errors_of(answer: Any) -> dict[str, list[str]]:
    """Return the messages beside fields, those of rows by `name-place-cell`."""
    form = answer.context["adminform"].form
    found = {name: list(messages) for name, messages in form.errors.items()}
    for name in ("sub_queues", "vaults", "input", "output"):
        for row in form.rows(name).rows.forms:
            found |= {f"{row.prefix}-{cell}": list(messages) for cell, messages in row.errors.items()}
    return found


def test_a_queue_is_added_and_changed_through_the_operations(staff: Client) -> None:
    added = staff.post(ADD, FORM)
    assert added.status_code == 302, errors_of(added)
    queue = Queue.objects.get()
    assert queue.source == Source.ADMIN
    found = get_catalog().resolve("mail").queue
    assert (found.mode, found.limits.max_retry, found.input[0].default_json) == ("one_shot", 4, "7")
    assert found.deployment.env_vars == {"A": "1"}

    subs = rows("sub_queues", {"name": "high", "priority": "9"}, {"name": "low", "priority": "2"})
    sent = sent_by(staff, queue) | subs
    del sent["is_enabled"]
    assert staff.post(page_of(queue), sent).status_code == 302
    assert get_catalog().redis_queues() == ["mail_high", "mail_low"]
    assert not get_catalog().resolve("mail.high").queue.is_enabled
    assert LogEntry.objects.count() == 2


def test_a_page_that_is_saved_as_it_is_changes_nothing(staff: Client) -> None:
    create_vault(name="a")
    create_vault(name="b")
    create_vault(name="c")
    set_entry(vault="c", key="PAT", value="x")
    full = replace(RICH, limits=StatedLimits(max_retry=0, ttl_completed_s=5400, pending_timeout_s=0))
    queue = save_queue(spec=full, source=Source.FILE, file_digest="x", file_path="/q/a.yaml")

    answer = staff.post(page_of(queue), sent_by(staff, queue))

    assert answer.status_code == 302, errors_of(answer)
    queue.refresh_from_db()
    assert queue.as_spec() == full
    assert queue.source == Source.FILE
    assert AuditRecord.objects.filter(action="queue.updated").count() == 0


def test_rows_are_saved_in_the_order_of_their_places(staff: Client) -> None:
    create_vault(name="first")
    create_vault(name="second")
    sent = FORM | rows("vaults", {"vault": "second", "ORDER": "2"}, {"vault": "first", "ORDER": "1"})
    sent |= rows(
        "sub_queues",
        {"name": "c", "priority": 1, "ORDER": "3"},
        {"name": "a", "priority": 1, "ORDER": "1"},
        {"name": "gone", "priority": 1, "ORDER": "2", "DELETE": "on"},
        {"name": "", "priority": "", "ORDER": "4"},
    )

    answer = staff.post(ADD, sent)

    assert answer.status_code == 302, errors_of(answer)
    found = Queue.objects.get().as_spec()
    assert found.deployment.vaults == ("first", "second")
    assert [sub.name for sub in found.sub_queues] == ["a", "c"]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "a b"}, "name", "a name has 1 to 128"),
    ({"name": ""}, "name", "`name` is missing"),
    ({"priority": "0"}, "priority", "a priority is from 1 to 1000"),
    ({"priority": ""}, "priority", "`priority` is missing"),
    ({"git_url": "ext::sh"}, "git_url", "it must be an https"),
    ({"git_url": ""}, "git_url", "`git_url` is missing"),
    ({"branch": "a..b"}, "branch", "it is not the name of a branch"),
    ({"startup_cmd": "python 'x"}, "startup_cmd", "it cannot be split into words"),
    ({"startup_timeout_secs": "0.5"}, "startup_timeout_secs", "Enter a whole number."),
    ({"startup_timeout_secs": "99999999"}, "startup_timeout_secs", "it must be from 1 second to a day"),
    ({"code_path": "../x"}, "code_path", "it must be a relative path"),
    ({"env_vars": "PATH=/x"}, "env_vars", "PATH: PATH is reserved"),
    ({"env_vars": "A=1\nnonsense"}, "env_vars", "Line 2: it must be KEY=value."),
    ({"git_token": "ghp_x"}, "git_token", "it must be vault://<vault>/<key>, never a token itself"),
    ({"ttl_completed": "soon"}, "ttl_completed", "'soon' is not a duration such as 30s, 15m or 1h30m"),
    ({"active_timeout": "0"}, "active_timeout", "it must be from 1 s"),
    ({"max_retry": "-1"}, "max_retry", "it must be from 0 to 10000"),
    (
        rows("sub_queues", {"name": "a", "priority": 1}, {"name": "a", "priority": 1}),
        "sub_queues-1-name",
        "there is another",
    ),
    (rows("sub_queues", {"name": "a", "priority": 0}), "sub_queues-0-priority", "a priority is from 1"),
    (rows("sub_queues", {"name": "a"}), "sub_queues-0-priority", "`priority` is missing"),
    (rows("vaults", {"vault": "nowhere"}), "vaults-0-vault", "there is no vault of this name"),
    (rows("input", {"name": "x", "type": ["integer"]}), "input-0-type", "Select a valid choice"),
    (rows("input", {"name": "x", "type": []}), "input-0-type", "a field has at least one type"),
    (rows("input", {"name": "x", "type": ["int"], "default": "text"}), "input-0-default", "it is not JSON"),
    (rows("input", {"name": "x", "type": ["int"], "default": '"a"'}), "input-0-default", "it is not of the type int"),
    (rows("output", {"type": ["int"]}), "output-0-name", "`name` is missing"),
]


@pytest.mark.parametrize(("wrong", "place", "said"), WRONG)
def test_what_is_wrong_is_told_beside_its_field(staff: Client, wrong: dict, place: str, said: str) -> None:
    answer = staff.post(ADD, FORM | wrong)

    assert answer.status_code == 200
    assert any(said in message for message in errors_of(answer)[place]), errors_of(answer)
    assert not Queue.objects.exists()


def test_all_that_is_wrong_is_told_at_once(staff: Client) -> None:
    wrong = {"name": "", "branch": "a..b", "ttl_completed": "soon", "env_vars": "nonsense"}
    wrong |= rows("sub_queues", {"name": "", "priority": 3}, {"name": "b", "priority": 0})

    found = errors_of(staff.post(ADD, FORM | wrong))

    assert found.keys() == {
        *("name", "branch", "ttl_completed", "env_vars", "sub_queues"),
        *("sub_queues-0-name", "sub_queues-1-priority"),
    }


def test_a_token_that_was_entered_by_mistake_is_not_shown_again(staff: Client) -> None:
    assert "ghp_planted" not in staff.post(ADD, FORM | {"git_token": "ghp_planted"}).content.decode()


@pytest.mark.parametrize(
    ("existing", "wrong", "place", "said"),
    [
        ("mail", {}, "name", "A queue mail exists already."),
        ("mail", {"name": "mail_default"}, "name", "The queue mail answers to 'mail_default' too."),
    ],
)
def test_what_an_operation_refuses_is_told_beside_its_field(staff, existing, wrong, place, said) -> None:
    saved(spec(existing))

    answer = staff.post(ADD, FORM | wrong)

    assert errors_of(answer)[place] == [said]
    assert [queue.name for queue in Queue.objects.all()] == [existing]


def test_a_queue_that_somebody_else_changed_meanwhile_is_not_overwritten(staff: Client) -> None:
    queue = saved()
    sent = sent_by(staff, queue)
    saved(spec("mail", limits=StatedLimits(max_retry=9)))

    answer = staff.post(page_of(queue), sent | {"priority": "7"})

    assert "Somebody else has changed this queue" in answer.content.decode()
    assert Queue.objects.get().priority == 5


def test_a_page_with_a_mistake_still_says_how_the_queue_stands(staff: Client) -> None:
    queue = saved()

    answer = staff.post(page_of(queue), sent_by(staff, queue) | {"branch": "a..b"})

    assert "How the queue stands" in answer.content.decode()


def test_a_clone_begins_with_what_the_original_says(staff: Client) -> None:
    saved(RICH)

    form = staff.get(f"{ADD}?clone=inference").context["adminform"].form

    assert form["name"].value() == "inference-copy"
    assert form["order"].value() == "strict"
    assert [row["name"].value() for row in form.rows("sub_queues").rows.shown()] == ["high", "low"]
    assert [row["vault"].value() for row in form.rows("vaults").rows.shown()] == ["b", "a"]


def test_limits_show_the_defaults_that_count(staff: Client, settings) -> None:
    settings.RUNQY_DEFAULT_TTL_COMPLETED_S, settings.RUNQY_DEFAULT_MAX_RETRY = 5400, 8

    form = staff.get(ADD).context["adminform"].form

    assert form.fields["ttl_completed"].widget.attrs["placeholder"] == "1h30m"
    assert form.fields["max_retry"].widget.attrs["placeholder"] == "8"


def test_staff_see_that_what_they_saved_is_not_published_yet(staff: Client, settings) -> None:
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()
    assert staff.post(ADD, FORM).status_code == 302
    assert "Redis cannot be reached" in staff.get(LIST).content.decode()
    assert "Redis cannot be reached" in staff.get(page_of(Queue.objects.get())).content.decode()

    settings.REDIS_TARGET = here

    assert "not published yet" in staff.get(LIST).content.decode()
    assert "Publish again" in staff.get(page_of(Queue.objects.get())).content.decode()


def test_a_queue_is_published_again(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved()
    redis.delete(keys.CONFIG_DOCUMENTS)

    staff.post(page_of(queue, "publish"))

    assert redis.hexists(keys.CONFIG_DOCUMENTS, "queue:mail")


def test_buttons_enable_disable_pause_and_resume(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved(spec("mail", "high:9", "low:1"))
    switch = page_of(queue, "switch")

    staff.post(switch, {"verb": "disable"})
    assert not Queue.objects.get().is_enabled
    staff.post(switch, {"verb": "enable"})
    assert Queue.objects.get().is_enabled
    staff.post(switch, {"verb": "pause"})
    assert redis.exists(QueueKeys("mail_high").paused, QueueKeys("mail_low").paused) == 2
    staff.post(switch, {"verb": "resume"})
    assert not redis.exists(QueueKeys("mail_high").paused)
    staff.post(switch, {"verb": "redeploy"})
    assert AuditRecord.objects.filter(action="queue.redeployed").exists()
    assert staff.post(switch, {"verb": "explode"}).status_code == 404
    assert staff.get(switch).status_code == 405


@pytest.mark.parametrize(
    ("action", "is_done"),
    [
        ("disable", lambda redis: not Queue.objects.filter(is_enabled=True).exists()),
        ("pause", lambda redis: redis.exists(QueueKeys("mail").paused, QueueKeys("video").paused) == 2),
    ],
)
def test_actions_are_done_to_all_that_are_selected(staff: Client, redis: redis_py.Redis, action: str, is_done) -> None:
    selected = [saved().pk, saved(spec("video")).pk]

    answer = staff.post(LIST, {"action": action, "_selected_action": selected}, follow=True)

    assert is_done(redis)
    assert "mail, video" in answer.content.decode()


def test_exported_queues_load_to_the_same(staff: Client) -> None:
    queues = [saved(RICH), saved()]

    one = staff.get(page_of(queues[0], "export"))
    both = staff.post(LIST, {"action": "export", "_selected_action": [queue.pk for queue in queues]})

    assert one["Content-Disposition"] == 'attachment; filename="inference.yaml"'
    assert parse_queue_file(one.content, file="x").specs == (RICH,)
    assert parse_queue_file(both.content, file="x").specs == (RICH, spec("mail"))


def test_queues_are_not_deleted_without_their_names(staff: Client) -> None:
    queue = saved()
    delete = page_of(queue, "delete")

    assert "delete_selected" not in staff.get(LIST).content.decode()
    refused = staff.post(delete, {"post": "yes", "confirmation": "mial"})
    assert "This is not its name." in refused.content.decode()
    assert Queue.objects.exists()


def test_a_deleted_queue_is_gone_with_its_tasks(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved()
    sent = {"queue": "mail", "data": {}}
    headers = {"Authorization": "Bearer admin-key-of-tests"}
    Client().post("/queue/add", sent, content_type="application/json", headers=headers)
    shown = staff.get(page_of(queue, "delete")).content.decode()
    assert "1 waiting, 0 running" in shown

    answer = staff.post(page_of(queue, "delete"), {"confirmation": "mail"})

    assert answer.status_code == 302
    assert not Queue.objects.exists()
    assert not redis.exists(QueueKeys("mail").pending)
    assert {record.action for record in AuditRecord.objects.all()} >= {"queue.deleted", "queue.emptied"}
    assert LogEntry.objects.get().object_repr == "mail"


def test_a_file_is_named_with_the_warning_that_it_overwrites(staff: Client) -> None:
    queue = save_queue(spec=spec("mail"), source=Source.FILE, file_digest="x", file_path="/q/mail.yaml")

    shown = staff.get(page_of(queue)).content.decode()

    assert "/q/mail.yaml" in shown
    assert "overwrite" in shown


def test_a_vault_that_is_missing_is_shown_on_the_queue(staff: Client) -> None:
    queue = saved(RICH)

    assert "Workers cannot register: " in staff.get(page_of(queue)).content.decode()
    assert "vault problem" in staff.get(LIST).content.decode()


def test_the_example_follows_what_is_entered(staff: Client) -> None:
    sent = FORM | rows(
        "input",
        {"name": "width", "type": ["int"], "default": "512"},
        {"name": "x", "type": ["bool"]},
        {"name": "broken"},
    )

    found = staff.post(f"{LIST}example/", sent | {"name": "it's"}).json()

    assert json.loads(found["body"]) == {"queue": "it's", "data": {"width": 512, "x": True}}
    assert found["curl"].startswith("curl -X POST http://testserver/queue/add")


def test_the_list_asks_as_little_for_many_queues_as_for_one(staff: Client, django_assert_max_num_queries) -> None:
    for number in range(40):
        saved(spec(f"queue-{number}", "high:2", "low:1"))

    with django_assert_max_num_queries(12):
        answer = staff.get(LIST)

    assert answer.status_code == 200


VIEWS = [
    (ADD, "post", "configurator"),
    ("change", "post", "configurator"),
    ("switch:disable", "post", "configurator"),
    ("switch:pause", "post", "operator"),
    ("publish", "post", "configurator"),
    ("delete", "get", "configurator"),
    ("export", "get", "configurator"),
    (f"{LIST}check/", "post", "configurator"),
    (f"{LIST}example/", "post", "configurator"),
]
RANKS = ["viewer", "operator", "configurator", "admin"]


@pytest.mark.parametrize("role", RANKS)
@pytest.mark.parametrize(("place", "method", "least"), VIEWS)
def test_each_role_may_do_only_its_own(role: str, place: str, method: str, least: str) -> None:
    queue = saved()
    place, _, verb = place.partition(":")
    url = place if place.startswith("/") else page_of(queue, place)

    answer = getattr(as_role(role), method)(url, {"verb": verb} if verb else {})

    may = RANKS.index(role) >= RANKS.index(least)
    assert (answer.status_code != 403) == may


def test_where_the_admin_is_read_only_nobody_pauses_a_queue(staff: Client, settings: Any) -> None:
    settings.ASYNQ_READ_ONLY = True
    queue = saved()

    assert 'value="pause"' not in staff.get(page_of(queue)).content.decode()
    assert staff.post(page_of(queue, "switch"), {"verb": "pause"}).status_code == 403
    assert staff.post(page_of(queue, "switch"), {"verb": "disable"}).status_code == 302


def test_a_viewer_reads_all_but_values_of_variables() -> None:
    queue = saved(replace(RICH, deployment=replace(RICH.deployment, env_vars={"NAME_OF_ONE": "value-of-one"})))
    viewer = as_role("viewer")

    shown = viewer.get(page_of(queue)).content.decode()

    assert "NAME_OF_ONE=****" in shown
    assert "value-of-one" not in shown
    assert "high: 10" in shown
    assert "Start command" in shown
    assert "default <code>7</code>" in shown
    assert "max_retry: 0" in shown
    assert 'name="_save"' not in shown
    assert "Pause" not in shown
    assert viewer.get(LIST).status_code == 200


def test_payload_fields_keep_what_files_said(staff: Client) -> None:
    field = PayloadField(name=" a b ", type=(FieldType.FLOAT, FieldType.STRING), default_json="1.0", description=" d ")
    queue = saved(spec("mail", input=(field,)))

    answer = staff.post(page_of(queue), sent_by(staff, queue) | {"priority": "7"})

    assert answer.status_code == 302, errors_of(answer)
    assert Queue.objects.get().as_spec() == spec("mail", input=(field,), priority=7)
