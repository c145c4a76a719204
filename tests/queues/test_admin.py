"""The form of a queue in the admin, and the list of them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from queues.definitions import FieldType, PayloadField, StatedLimits
from queues.models import Queue, Source
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.audit.models import AuditRecord
from tests.publication.support import away
from tests.queues.admin_pages import ADD, FORM, LIST, errors_of, page_of, rows, saved, sent_by
from tests.queues.samples import spec
from tests.queues.test_saving import RICH
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")


def test_a_queue_is_added_and_changed_through_the_operations(staff: Client) -> None:
    added = staff.post(ADD, FORM)
    assert added.status_code == 302, errors_of(added)
    queue = Queue.objects.get()
    assert queue.source == Source.ADMIN
    found = get_fresh_catalog().resolve("mail").queue
    assert (found.mode, found.limits.max_retry, found.input[0].default_json) == ("one_shot", 4, "7")
    assert found.deployment.env_vars == {"A": "1"}

    subs = rows("sub_queues", {"name": "high", "priority": "9"}, {"name": "low", "priority": "2"})
    sent = sent_by(staff, queue) | subs
    del sent["is_enabled"]
    assert staff.post(page_of(queue), sent).status_code == 302
    assert get_fresh_catalog().redis_queues() == ["mail_high", "mail_low"]
    assert not get_fresh_catalog().resolve("mail.high").queue.is_enabled
    assert LogEntry.objects.count() == 2


def test_a_page_that_is_saved_as_it_is_changes_nothing(staff: Client) -> None:
    create_vault(name="a")
    create_vault(name="b")
    create_vault(name="c")
    set_entry(vault="c", key="PAT", value="x", git_hosts=["h"])
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


def test_payload_fields_keep_what_files_said(staff: Client) -> None:
    field = PayloadField(name=" a b ", type=(FieldType.FLOAT, FieldType.STRING), default_json="1.0", description=" d ")
    queue = saved(spec("mail", input=(field,)))

    answer = staff.post(page_of(queue), sent_by(staff, queue) | {"priority": "7"})

    assert answer.status_code == 302, errors_of(answer)
    assert Queue.objects.get().as_spec() == spec("mail", input=(field,), priority=7)
