"""The form of a queue in the admin, and the list of them."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_py
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.definitions import Deployment, FieldType, LimitOverrides, PayloadField, ReleaseMode
from queues.models import Queue, QueueSource
from queues.queries import get_fresh_catalog, get_published_releases
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerState
from tasks.models import QueueMinute
from tests.configuration.support import away
from tests.queues.admin_pages import ADD, FORM, LIST, errors_of, page_of, rows, saved, sent_by
from tests.queues.samples import spec
from tests.queues.stored import save_from_file
from tests.queues.test_operations import RICH
from tests.support.audit import audit_records
from tests.support.redis_client import redis_of
from tests.support.releases import worker
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.workers import RECORD
from vaults.operations import create_vault, set_entry
from webhooks.operations import create_endpoint

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")


def test_a_queue_is_added_and_changed_through_the_operations(staff: Client) -> None:
    added = staff.post(ADD, FORM)
    assert added.status_code == 302, errors_of(added)
    queue = Queue.objects.get()
    assert queue.source == QueueSource.ADMIN
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


def test_the_page_says_what_a_change_costs_and_can_replace_processes_at_once(
    staff: Client, single_broker: Broker
) -> None:
    queue = saved(spec("mail", deployment=Deployment(git_url="https://h/r", startup_cmd="x", replace_first=True)))
    record = worker("w1", startup_s=28.0, child_memory_bytes=5 << 30)
    single_broker.run(write_heartbeat(record, (), now_ns=single_broker.now_ns()))

    page = staff.get(page_of(queue)).content.decode()
    staff.post(page_of(queue), sent_by(staff, queue) | {"replaces_at_once": "on"})

    assert "The only process ends before the next one starts: its last start took 28 s." in page
    assert "A process of this queue uses 5 GiB." in page
    assert get_published_releases("mail").replacements == Queue.objects.get().replacements == 1
    assert [record.object_name for record in audit_records().filter(action="queue.processes_replaced")] == ["mail"]


def test_a_new_queue_without_a_worker_is_reported_with_where_to_read_how_to_start_one(
    staff: Client, single_broker: Broker
) -> None:
    serving = replace(RECORD, queue="served", redis_queues={"served": 1})
    single_broker.run(write_heartbeat(serving, now_ns=single_broker.now_ns()))

    served = staff.post(ADD, FORM | {"name": "served"}, follow=True)
    unserved = staff.post(ADD, FORM | {"name": "unserved"}, follow=True)
    shown = staff.post(ADD, FORM | {"name": "shown", "_continue": "1"}, follow=True)

    assert "No worker serves" not in served.content.decode()
    assert "No worker serves unserved yet; its page shows how to start one." in unserved.content.decode()
    assert "No worker serves" not in shown.content.decode()
    assert "RUNQY_QUEUES=shown runqy-worker" in shown.content.decode()


def test_saving_an_unchanged_page_changes_nothing(staff: Client) -> None:
    create_vault(name="a")
    create_vault(name="b")
    create_vault(name="c")
    set_entry(vault="c", key="PAT", value="x", git_hosts=["h"])
    full = replace(RICH, limits=LimitOverrides(max_retry=0, ttl_completed_s=5400, pending_timeout_s=0))
    queue = save_from_file(full, "/q/a.yaml")

    response = staff.post(page_of(queue), sent_by(staff, queue))

    assert response.status_code == 302, errors_of(response)
    queue.refresh_from_db()
    assert queue.as_spec() == full
    assert queue.source == QueueSource.FILE
    assert AuditRecord.objects.filter(action="queue.updated").count() == 0


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (QueueSource.ADMIN, "in the admin."),
        (QueueSource.API, "over the API."),
        (QueueSource.APPLIED, "by runqy queue apply."),
    ],
)
def test_the_page_says_where_a_queue_was_changed(staff: Client, source: QueueSource, says: str) -> None:
    queue = saved(spec("mail"))
    Queue.objects.update(source=source)

    page = " ".join(staff.get(page_of(queue)).content.decode().split())

    assert re.search(rf"Changed \S.*? {re.escape(says)}", page)


def test_rows_are_saved_by_position(staff: Client) -> None:
    create_vault(name="first")
    create_vault(name="second")
    sent = FORM | rows("vaults", {"vault": "second", "ORDER": "2"}, {"vault": "first", "ORDER": "1"})
    sent |= rows(
        "sub_queues",
        {"name": "c", "priority": 1, "position": "3"},
        {"name": "a", "priority": 1, "position": "1"},
        {"name": "gone", "priority": 1, "position": "2", "DELETE": "on"},
        {"name": "", "priority": "", "position": "4"},
    )

    response = staff.post(ADD, sent)

    assert response.status_code == 302, errors_of(response)
    found = Queue.objects.get().as_spec()
    assert found.deployment.vaults == ("first", "second")
    assert [sub.name for sub in found.sub_queues] == ["a", "c"]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "a b"}, "name", "Use 1 to 128"),
    ({"name": ""}, "name", "This field is required."),
    ({"priority": "0"}, "priority", "Ensure this value is greater than or equal to 1."),
    ({"priority": ""}, "priority", "This field is required."),
    ({"git_url": "ext::sh"}, "git_url", "Must be an https"),
    ({"git_url": ""}, "git_url", "This field is required."),
    ({"git_url": "git@host:/srv/repo"}, "git_url", "user@host:path with a relative path"),
    ({"branch": "a..b"}, "branch", "is not a valid branch name"),
    ({"startup_cmd": "python 'x"}, "startup_cmd", "Invalid shell quoting"),
    ({"startup_cmd": "'' main.py"}, "startup_cmd", "Must start with a program"),
    ({"startup_timeout_s": "0.5"}, "startup_timeout_s", "Enter a whole number."),
    ({"startup_timeout_s": "99999999"}, "startup_timeout_s", "less than or equal to 86400"),
    ({"child_concurrency": "0"}, "child_concurrency", "greater than or equal to 1"),
    ({"code_path": "../x"}, "code_path", "must be a plain path inside the repository"),
    ({"env_vars": "PATH=/x"}, "env_vars", "PATH: PATH is reserved"),
    ({"env_vars": "A=1\nnonsense"}, "env_vars", "Line 2: Must be KEY=value."),
    ({"git_token": "ghp_x"}, "git_token", "Must be vault://<vault>/<key>"),
    ({"ttl_completed_s": "soon"}, "ttl_completed_s", "'soon' is not a duration such as 30s, 15m or 1h30m"),
    ({"max_payload_bytes": "1 mile"}, "max_payload_bytes", "'1 mile' is not a size such as 52428800 or 50MiB"),
    ({"active_timeout_s": "0"}, "active_timeout_s", "greater than or equal to 1"),
    ({"max_retry": "-1"}, "max_retry", "greater than or equal to 0"),
    (
        rows("sub_queues", {"name": "a", "priority": 1}, {"name": "a", "priority": 1}),
        "sub_queues",
        "duplicate",
    ),
    (rows("sub_queues", {"name": "a", "priority": 0}), "sub_queues-0-priority", "greater than or equal to 1"),
    (rows("sub_queues", {"name": "a"}), "sub_queues-0-priority", "This field is required."),
    (rows("vaults", {"vault": "nowhere"}), "vaults-0-vault", "No vault has this name."),
    (rows("input", {"name": "x", "type": ["integer"]}), "input-0-type", "Select a valid choice"),
    (rows("input", {"name": "x", "type": []}), "input-0-type", "Select at least one type."),
    (rows("input", {"name": "x", "type": ["int"], "default": "text"}), "input-0-default", "Must be JSON"),
    (rows("input", {"name": "x", "type": ["int"], "default": '"a"'}), "input-0-default", "Must be of type int."),
    (rows("output", {"type": ["int"]}), "output-0-name", "This field is required."),
]


@pytest.mark.parametrize(("wrong", "field", "expected"), WRONG)
def test_an_error_is_shown_at_its_field(staff: Client, wrong: dict, field: str, expected: str) -> None:
    response = staff.post(ADD, FORM | wrong)

    assert response.status_code == 200
    assert any(expected in message for message in errors_of(response)[field]), errors_of(response)
    assert not Queue.objects.exists()


def test_all_errors_are_shown_at_once(staff: Client) -> None:
    wrong = {"name": "", "branch": "a..b", "ttl_completed_s": "soon", "env_vars": "nonsense"}
    wrong |= rows("sub_queues", {"name": "", "priority": 3}, {"name": "b", "priority": 0})

    found = errors_of(staff.post(ADD, FORM | wrong))

    assert found.keys() == {
        *("name", "branch", "ttl_completed_s", "env_vars"),
        *("sub_queues-0-name", "sub_queues-1-priority"),
    }


def test_a_token_entered_as_a_reference_is_not_rendered_again(staff: Client) -> None:
    assert "ghp_planted" not in staff.post(ADD, FORM | {"git_token": "ghp_planted"}).content.decode()


@pytest.mark.parametrize(
    ("existing", "wrong", "field", "expected"),
    [
        ("mail", {}, "name", "Queue with this Name already exists."),
        ("mail", {"name": "mail_default"}, "name", "The name 'mail_default' is already used by the queue mail."),
    ],
)
def test_an_error_of_an_operation_is_shown_at_its_field(staff, existing, wrong, field, expected) -> None:
    saved(spec(existing))

    response = staff.post(ADD, FORM | wrong)

    assert errors_of(response)[field] == [expected]
    assert [queue.name for queue in Queue.objects.all()] == [existing]


def test_a_concurrent_change_is_not_overwritten(staff: Client) -> None:
    queue = saved()
    sent = sent_by(staff, queue)
    saved(spec("mail", limits=LimitOverrides(max_retry=9)))

    response = staff.post(page_of(queue), sent | {"priority": "7"})

    assert "This queue was changed by another user" in response.content.decode()
    assert Queue.objects.get().priority == 5


def test_a_page_with_an_error_still_shows_the_status_of_the_queue(staff: Client) -> None:
    queue = saved()

    response = staff.post(page_of(queue), sent_by(staff, queue) | {"branch": "a..b"})

    assert "Status of the queue" in response.content.decode()


def test_a_clone_starts_with_the_values_of_the_original(staff: Client) -> None:
    saved(RICH)

    page = staff.get(f"{ADD}?clone=inference")
    form, formset = page.context["adminform"].form, page.context["inline_admin_formsets"][0].formset
    names = [row["name"].value() for row in formset.forms if row["name"].value()]

    assert form["name"].value() == "inference-copy"
    assert form["order"].value() == "strict"
    assert names == ["high", "low"]
    assert [row["vault"].value() for row in form.rows("vaults").rows.rendered()] == ["b", "a"]


def test_limits_are_entered_and_shown_with_units(staff: Client) -> None:
    limits = {"max_payload_bytes": "1MiB", "max_result_bytes": "1500", "ttl_completed_s": "90m"}

    assert staff.post(ADD, FORM | limits).status_code == 302
    row = Queue.objects.get()
    form = staff.get(page_of(row)).context["adminform"].form

    assert (row.max_payload_bytes, row.max_result_bytes, row.ttl_completed_s) == (1 << 20, 1500, 5400)
    assert [form[name].value() for name in limits] == ["1MiB", "1500", "1h30m"]


def test_empty_limits_show_the_server_defaults(staff: Client, settings) -> None:
    settings.RUNQY_DEFAULT_TTL_COMPLETED_S, settings.RUNQY_DEFAULT_MAX_RETRY = 5400, 8

    form = staff.get(ADD).context["adminform"].form

    assert form.fields["ttl_completed_s"].widget.attrs["placeholder"] == "1h30m"
    assert form.fields["max_retry"].widget.attrs["placeholder"] == "8"


def test_the_page_shows_that_a_change_is_not_published_yet(staff: Client, settings) -> None:
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()
    assert staff.post(ADD, FORM).status_code == 302
    assert "Redis cannot be reached" in staff.get(LIST).content.decode()
    assert "Redis is unavailable" in staff.get(page_of(Queue.objects.get())).content.decode()

    settings.REDIS_TARGET = here

    assert "not published yet" in staff.get(LIST).content.decode()
    assert "Publish again" in staff.get(page_of(Queue.objects.get())).content.decode()


def test_a_vault_that_is_missing_is_shown_on_the_queue(staff: Client) -> None:
    queue = saved(RICH)

    assert "Workers cannot register: " in staff.get(page_of(queue)).content.decode()
    assert "vault problem" in staff.get(LIST).content.decode()


def test_the_example_matches_the_submitted_form(staff: Client) -> None:
    sent = FORM | rows(
        "input",
        {"name": "width", "type": ["int"], "default": "512"},
        {"name": "x", "type": ["bool"]},
        {"name": "broken"},
    )

    found = staff.post(f"{LIST}example/", sent | {"name": "it's"}).json()

    assert json.loads(found["body"]) == {"queue": "it's", "data": {"width": 512, "x": True}}
    assert found["curl"].startswith("curl -X POST http://testserver/queue/add")


def test_there_is_no_example_before_the_queue_has_a_name(staff: Client) -> None:
    assert staff.post(f"{LIST}example/", FORM | {"name": ""}).json() == {"body": "", "curl": ""}
    assert "my-queue" not in staff.get(ADD).content.decode()


def test_the_page_of_a_queue_shows_how_to_start_a_worker(staff: Client) -> None:
    page = staff.get(page_of(saved())).content.decode()

    assert 'RUNQY_SERVER_URL=http://testserver RUNQY_API_KEY="$RUNQY_API_KEY" RUNQY_QUEUES=mail runqy-worker' in page


def test_the_number_of_queries_of_the_list_is_constant(staff: Client, django_assert_max_num_queries) -> None:
    for number in range(40):
        saved(spec(f"queue-{number}", "high:2", "low:1"))

    with django_assert_max_num_queries(12):
        response = staff.get(LIST)

    assert response.status_code == 200


def test_the_list_shows_pending_tasks_with_a_link_to_them(staff: Client, redis: redis_py.Redis) -> None:
    saved()
    redis.lpush(QueueKeys("mail").pending, "a", "b")
    redis.zadd(QueueKeys("mail").scheduled, {"c": 1})

    page = staff.get(LIST).content.decode()

    assert '<a class="rq-number rq-nonzero" href="/admin/tasks/task/?parent=mail&amp;state=pending">2</a>' in page
    assert "0 ready" in page


def test_the_number_of_workers_links_to_them(staff: Client, single_broker: Broker) -> None:
    saved()
    saved(spec("post"))
    for record in (
        RECORD,
        replace(RECORD, worker_id="worker/2", pid=8, server_id="s2", state=WorkerState.START_FAILED),
    ):
        serving = replace(record, queue="mail", redis_queues={"mail": 1})
        single_broker.run(write_heartbeat(serving, now_ns=single_broker.now_ns()))

    page = staff.get(LIST).content.decode()

    (url,) = re.findall(r'<a class="[^"]*" href="([^"]*)">1 of 2 ready</a>', page)
    workers = staff.get(url).content.decode()
    assert ("worker/1" in workers, "worker/2" in workers) == (True, True)
    assert "worker/1" not in staff.get(url.replace("mail", "post")).content.decode()
    assert page.count("0 ready") == 1


def test_the_page_says_how_long_a_worker_has_been_loading(staff: Client, single_broker: Broker) -> None:
    queue = saved()
    loading = replace(RECORD, queue="mail", redis_queues={"mail": 1}, state=WorkerState.STARTING)
    record = replace(loading, reason="loading for 2 min")
    single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))

    assert "(loading for 2 min)" in staff.get(page_of(queue)).content.decode()


def test_the_page_shows_how_full_the_slots_are_and_how_large_the_batches(staff: Client, single_broker: Broker) -> None:
    queue = saved()
    batching = replace(
        RECORD, queue="mail", redis_queues={"mail": 1}, concurrency=32, mean_batch=8.25, mean_running=13.5
    )
    dying = replace(batching, worker_id="worker/2", mean_batch=0, shared_deaths=3, shared_death_tasks=30)
    for record in (batching, dying):
        single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))

    page = staff.get(page_of(queue)).content.decode()

    load = "27 of 64 slots busy (42 %); 6.8 tasks at a time in each of 4 processes, 8.3 in a batch"
    assert load in page
    assert "3 in the last 10 minutes, at 30 tasks or more" in page


def test_the_page_of_a_queue_that_tells_ends_says_which_come_later(staff: Client) -> None:
    queues = [saved(spec("mail", webhook_hosts=("hooks.example.com",))), saved(spec("sms")), saved(spec("post"))]
    create_endpoint(url="https://hooks.example.com/x", events=["task.completed"], queues=["sms"])

    pages = [staff.get(page_of(queue)).content.decode() for queue in queues]

    late = "one of asynq's tools ends a task of this queue, webhooks and batches are told later"
    assert [late in page for page in pages] == [True, True, False]


def test_the_page_shows_open_alerts_and_the_last_hour(staff: Client, single_broker: Broker) -> None:
    queue = saved()
    saved(spec("post"))
    insert_runs(*[make_failure("KeyError: 'customer'") for _ in range(11)], make_run(), queue="mail")
    insert_runs(make_run(), queue="post")
    now = timezone.now()
    QueueMinute.objects.filter(queue="mail").update(backlog=3, backlog_max=3)
    redis_of(single_broker).lpush(QueueKeys("mail").pending, *[f"t{number}" for number in range(5)])
    message = "92 % of the runs of queue mail failed."
    store_findings(
        [Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message=message)],
        now=now - timedelta(minutes=12),
    )

    page, other = (
        " ".join(re.sub(r"<[^>]+>", "", staff.get(page_of(one)).content.decode()).split())
        for one in (queue, Queue.objects.get(name="post"))
    )

    assert f"{message} For 12 min." in page
    assert "12 runs ended, 11 failed (91.7 % of tasks, 91.7 % of first attempts)" in page
    assert re.search(r"5 pending, up from 3 \([0-9]+ (s|min) ago\)", page)
    assert message not in other
    assert "1 run ended, none failed" in other


def test_payload_fields_from_files_are_kept(staff: Client) -> None:
    field = PayloadField(name=" a b ", type=(FieldType.FLOAT, FieldType.STRING), default_json="1.0", description=" d ")
    queue = saved(spec("mail", input=(field,)))

    response = staff.post(page_of(queue), sent_by(staff, queue) | {"priority": "7"})

    assert response.status_code == 302, errors_of(response)
    assert Queue.objects.get().as_spec() == spec("mail", input=(field,), priority=7)


def test_a_queue_is_found_by_its_name(staff: Client) -> None:
    queue = saved()

    assert staff.get(f"{LIST}by-name/mail/")["Location"] == page_of(queue)
    assert staff.get(f"{LIST}by-name/nope/").status_code == 404


@pytest.mark.parametrize("name", ["sub_queues", "input", "vaults"])
def test_a_form_with_too_many_rows_is_refused(staff: Client, name: str) -> None:
    queue = saved()

    page = staff.post(f"{LIST}{queue.pk}/change/", FORM | {f"{name}-TOTAL_FORMS": "2000"}).content

    assert b"Please submit at most 20" in page
    assert len(page) < 3_000_000


@pytest.mark.parametrize("depth", [33, 3000])
def test_a_deeply_nested_default_is_refused(staff: Client, depth: int) -> None:
    nested = "[" * depth + "]" * depth

    page = staff.post(ADD, FORM | rows("input", {"name": "x", "type": ["array"], "default": nested})).content

    assert b"Must not be nested deeper than 32 levels." in page


def test_the_page_of_a_queue_that_pushes_release_shows_the_hook_and_its_secret_once(staff: Client) -> None:
    deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", release=ReleaseMode.PUSH)
    queue = saved(spec("mail", deployment=deployment))

    page = staff.get(page_of(queue)).content.decode()
    shown, again = (staff.post(page_of(queue, "git-hook-secret"), {"verb": "show"}) for _ in range(2))

    assert "http://testserver/hooks/git/mail" in page
    assert "Show it once" in page
    assert queue.git_hook_secret is not None
    secret = queue.git_hook_secret.unseal()
    assert secret in shown.content.decode()
    assert "http://testserver/hooks/git/mail" in shown.content.decode()
    assert (again.status_code, secret in again.content.decode(), secret in page) == (409, False, False)
