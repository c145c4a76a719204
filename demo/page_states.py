"""The pages of the admin in every state that they can be in, for a review of their looks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

import msgspec
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page

from alerts.models import Alert, AlertDelivery, AlertRule, DeliveryEvent
from demo.data import fill, take_tasks
from demo.stack import DemoServer
from queues.definition_serializers import parse_queue
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.enqueue import NewTask, enqueue
from runqy.broker.finish import Failure, archive, complete, retry
from runqy.broker.forwarder import forward
from runqy.broker.lease import LeasedTask
from runqy.broker.run_log import EndedRun
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.task_output import OutputChunk, write_output
from tasks.models import BulkAction, BulkActionItem, TaskRun
from tasks.run_history import QueueIdentity, store_runs
from vaults.models import Vault
from vaults.operations import create_vault, set_entry

TASKS = "/admin/tasks/task/"
ERRORS = f"{TASKS}errors/"
BULK = "/admin/tasks/bulkaction/"
_GROUPS = 300
_LONG_NAME = "a-rather-long-name-that-was-chosen-without-thinking-of-phones-in-a-hurry"
_WORKER_ID = "office-mini:35"


def _do_nothing(page: Page) -> None:
    """Leave the page as it is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """A page in a state, and what its picture is called."""

    name: str
    path: str
    prepare: Callable[[Page], None] = _do_nothing
    role: str | None = "admin"
    """Empty: of a user without one; None: nobody is logged in."""
    is_hiding: bool = False
    """Payloads are hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A state of the whole instance."""

    name: str
    pages: list[PageState]
    keep_alive: Callable[[], None] = lambda: None
    """Sends what workers send, before each picture."""


def stages(server: DemoServer, broker: Broker, wanted: set[str]) -> Iterator[Stage]:
    """Yield the stages in order, each after it has been reached; `wanted` names some, empty means all.

    The instance cannot go back: a stage includes what the earlier ones made.
    """

    def is_wanted(name: str) -> bool:
        return not wanted or name in wanted

    if is_wanted("empty"):
        yield Stage(name="empty", pages=_lists())
    _define("mail")
    if is_wanted("one"):
        yield Stage(name="one", pages=_one_queue())
    keep_alive = fill(broker)
    if is_wanted("full"):
        yield Stage(name="full", pages=full_pages(broker), keep_alive=keep_alive)
    if is_wanted("hidden"):
        yield Stage(name="hidden", pages=_hidden(), keep_alive=keep_alive)
    if is_wanted("many"):
        _add_many(broker)
        yield Stage(name="many", pages=_many(), keep_alive=keep_alive)
    server.redis.kill()
    if is_wanted("no-redis"):
        yield Stage(name="no-redis", pages=_lists(), keep_alive=lambda: None)
    (server.folder / "db.sqlite3").rename(server.folder / "moved.sqlite3")
    (server.folder / "db.sqlite3").mkdir()
    if is_wanted("no-database"):
        yield Stage(name="no-database", pages=[PageState(name="overview", path="/admin/")])


def _lists() -> list[PageState]:
    """Return the pages that exist without any object."""
    return [
        PageState(name="overview", path="/admin/"),
        PageState(name="tasks", path=TASKS),
        PageState(name="tasks-ended", path=f"{TASKS}?state=ended"),
        PageState(name="tasks-pending", path=f"{TASKS}?state=pending"),
        PageState(name="errors", path=ERRORS),
        PageState(name="bulk-actions", path=BULK),
        PageState(name="test-a-task", path=f"{TASKS}add/"),
        PageState(name="task-unknown", path=f"{TASKS}nothing/change/"),
        PageState(name="workers", path="/admin/workers/worker/"),
        PageState(name="worker-unknown", path="/admin/workers/worker/gone_3A1/change/"),
        PageState(name="queues", path="/admin/queues/queue/"),
        PageState(name="alerts", path="/admin/alerts/alert/"),
        PageState(name="rules", path="/admin/alerts/alertrule/"),
        PageState(name="vaults", path="/admin/vaults/vault/"),
        PageState(name="keys", path="/admin/accounts/apikey/"),
        PageState(name="audit", path="/admin/audit/auditrecord/"),
        PageState(name="unknown", path="/admin/nothing/"),
        PageState(name="login", path="/admin/login/", role=None),
    ]


def _one_queue() -> list[PageState]:
    """Return the pages of a queue without tasks, workers and history."""
    number = Queue.objects.get(name="mail").pk
    return [
        PageState(name="overview", path="/admin/"),
        PageState(name="queue", path=f"/admin/queues/queue/{number}/change/"),
        PageState(name="queue-tasks", path=f"{TASKS}?queue=mail"),
        PageState(name="tasks", path=TASKS),
        PageState(name="tasks-ended", path=f"{TASKS}?state=ended&queue=mail"),
        PageState(name="errors", path=f"{ERRORS}?queue=mail"),
        PageState(name="workers", path="/admin/workers/worker/?queue=mail"),
    ]


def full_pages(broker: Broker) -> list[PageState]:
    """Add what `fill` has not, and return the pages of a busy instance."""
    running, failing = _add_tasks_in_trouble(broker)
    bulks = _add_bulk_actions()
    _add_alert_deliveries()
    run = TaskRun.objects.filter(queue="image-tagging", outcome="failed").latest("id")
    queue = Queue.objects.get(name="transcription").pk
    alert = Alert.objects.filter(resolved_at=None).latest("pk")
    filtered = {"state": "ended", "queue": "image-tagging", "outcome": "failure", "worker": "gpu-rig-1:4121"}
    return [
        *_lists(),
        PageState(name="overview-24h-queue", path="/admin/?range=24h&queue=invoices"),
        PageState(name="overview-7d", path="/admin/?range=7d"),
        PageState(name="overview-table", path="/admin/", prepare=_unfold("#chart-throughput summary")),
        PageState(name="overview-unknown-queue", path="/admin/?queue=nothing"),
        PageState(name="login-error", path="/admin/login/", role=None, prepare=_fail_to_log_in),
        PageState(name="list-selected", path=f"{TASKS}?queue=invoices&state=archived", prepare=_select_two),
        PageState(name="queues-selected", path="/admin/queues/queue/", prepare=_select_two),
        PageState(name="queue", path=f"/admin/queues/queue/{queue}/change/"),
        PageState(name="tasks-of-queue", path=f"{TASKS}?parent=transcription"),
        *(
            PageState(name=f"list-{state}", path=f"{TASKS}?queue={name}&state={state}")
            for state, name in (
                *(("pending", "transcription_overnight"), ("active", "transcription_interactive")),
                *(("scheduled", "invoices"), ("retry", "image-tagging"), ("archived", "invoices")),
                *(("completed", "image-tagging"), ("completed", "transcription_interactive")),
            )
        ),
        *(PageState(name=f"browser-{state}", path=f"{TASKS}?state={state}") for state in ("active", "retry")),
        PageState(name="browser-filtered", path=f"{TASKS}?{urlencode(filtered)}"),
        PageState(name="browser-slowest-today", path=f"{TASKS}?state=ended&sort=slowest&period=today"),
        PageState(name="search", path=f"{TASKS}search/?q=ORD-2026-5017"),
        PageState(name="search-id", path=f"{TASKS}search/?q=invoices-ORD-2026-9001"),
        PageState(name="search-start", path=f"{TASKS}search/"),
        PageState(name="search-none", path=f"{TASKS}search/?q=ORD-1999-0000"),
        PageState(name="browser-text", path=f"{TASKS}?state=ended&text=ORD-2026-5017"),
        PageState(name="browser-text-pending", path=f"{TASKS}?state=pending&text=1017"),
        PageState(name="browser-no-match", path=f"{TASKS}?state=ended&text=ORD-1999-0000"),
        PageState(name="browser-invalid", path=f"{TASKS}?state=ended&since=yesterday&outcome=broken"),
        PageState(name="browser-invalid-cursor", path=f"{TASKS}?state=ended&cursor=nonsense"),
        PageState(name="browser-unknown-queue", path=f"{TASKS}?queue=nothing&state=pending"),
        PageState(name="errors-week", path=f"{ERRORS}?period=week"),
        PageState(name="errors-sample", path=f"{ERRORS}?period=week", prepare=_unfold("details summary")),
        PageState(name="errors-commit", path=f"{ERRORS}?since_commit={run.commit}&queue=image-tagging"),
        PageState(name="errors-unknown-commit", path=f"{ERRORS}?since_commit=abc"),
        PageState(name="errors-none", path=f"{ERRORS}?queue=video-preview"),
        *(PageState(name=f"bulk-{name}", path=f"{BULK}{bulk.pk}/change/") for name, bulk in bulks.items()),
        PageState(name="bulk-actions-filtered", path=f"{BULK}?queue=invoices&state=failed&by=linus"),
        PageState(name="bulk-request", path=f"{BULK}add/?action=delete&state=ended&queue=invoices&outcome=failure"),
        PageState(name="bulk-request-none", path=f"{BULK}add/?action=run&state=archived&queue=embeddings"),
        PageState(name="task-active", path=_task_path(running)),
        PageState(name="task-attempts", path=_task_path(failing)),
        PageState(name="task-pending", path=f"{TASKS}embeddings-0001/change/?queue=embeddings"),
        PageState(name="task-completed", path=f"{TASKS}transcription_5Fovernight-0001/change/"),
        PageState(name="task-ended", path=f"{TASKS}{run.task_id}/change/?queue={run.redis_queue}"),
        PageState(name="task-run-again", path=f"{TASKS}{run.task_id}/run-again/?queue={run.redis_queue}"),
        PageState(name="task-delete", path=_task_path(failing), prepare=_press("Delete")),
        PageState(name="test-a-task-of", path=f"{TASKS}add/?queue=transcription_interactive"),
        PageState(name="test-a-task-error", path=f"{TASKS}add/?queue=invoices", prepare=_enqueue("{")),
        PageState(name="worker", path="/admin/workers/worker/gpu-rig-1_3A4121/change/"),
        PageState(name="worker-failed", path="/admin/workers/worker/gpu-rig-2_3A1002/change/"),
        PageState(name="worker-gone", path="/admin/workers/worker/gpu-rig-0_3A77/change/"),
        PageState(name="workers-of-queue", path="/admin/workers/worker/?queue=video-preview"),
        PageState(name="workers-no-match", path="/admin/workers/worker/?q=nothing"),
        PageState(name="alert", path=f"/admin/alerts/alert/{alert.pk}/change/"),
        PageState(name="alerts-all", path="/admin/alerts/alert/?state=all"),
        PageState(name="alerts-no-match", path="/admin/alerts/alert/?q=nothing"),
        PageState(name="rule-add", path="/admin/alerts/alertrule/add/"),
        PageState(name="rule-add-error", path="/admin/alerts/alertrule/add/", prepare=_save_threshold("-1")),
        *_configuration_pages(),
        PageState(name="overview-viewer", path="/admin/", role="viewer"),
        PageState(name="overview-no-role", path="/admin/", role=""),
        PageState(name="task-viewer", path=_task_path(failing), role="viewer"),
    ]


def _configuration_pages() -> list[PageState]:
    """Return the pages of queues, vaults, keys, users and the audit: forms, empty, filled in and with errors."""
    queues, vaults, keys = "/admin/queues/queue/", "/admin/vaults/vault/", "/admin/accounts/apikey/"
    users, audit = "/admin/auth/user/", "/admin/audit/auditrecord/"
    failing, long = (Queue.objects.get(name=name).pk for name in ("invoices", _add_long_names()))
    vault, long_vault = (Vault.objects.get(name=name).pk for name in ("object-storage", _LONG_NAME[:64]))
    key, user = ApiKey.objects.get(name="web shop").pk, User.objects.get(username="linus").pk
    rule = AlertRule.objects.get(kind="failure_rate").pk
    records = {record.action: record.pk for record in AuditRecord.objects.order_by("-number")}
    return [
        PageState(name="queue-failing", path=f"{queues}{failing}/change/"),
        PageState(name="queue-unfolded", path=f"{queues}{failing}/change/", prepare=_unfold_all),
        PageState(name="queue-viewer", path=f"{queues}{failing}/change/", role="viewer"),
        PageState(name="queue-long-name", path=f"{queues}{long}/change/"),
        PageState(name="queue-delete", path=f"{queues}{failing}/delete/"),
        PageState(name="queue-add", path=f"{queues}add/"),
        PageState(name="queue-add-error", path=f"{queues}add/", prepare=_save),
        PageState(name="queues-undefined", path=f"{queues}undefined/"),
        PageState(name="rule", path=f"/admin/alerts/alertrule/{rule}/change/"),
        PageState(name="vault", path=f"{vaults}{vault}/change/"),
        PageState(name="vault-long-names", path=f"{vaults}{long_vault}/change/"),
        PageState(name="vault-viewer", path=f"{vaults}{long_vault}/change/", role="viewer"),
        PageState(name="vault-preview", path=f"{vaults}{vault}/bulk-edit/", prepare=_enter_lines),
        PageState(name="vault-versions", path=f"{vaults}{vault}/entries/S3_BUCKET/"),
        PageState(name="vaults-import", path=f"{vaults}import/"),
        PageState(name="vaults-import-error", path=f"{vaults}import/", prepare=_press("Show what changes")),
        *(
            PageState(name=f"vault-{name}", path=f"{vaults}{vault}/{name}/")
            for name in ("bulk-edit", "deliveries", "export", "delete")
        ),
        PageState(name="key", path=f"{keys}{key}/change/"),
        PageState(name="key-add", path=f"{keys}add/"),
        PageState(name="key-add-error", path=f"{keys}add/", prepare=_save),
        PageState(name="key-revoke", path=f"{keys}{key}/revoke/"),
        PageState(name="users", path=users),
        PageState(name="user", path=f"{users}{user}/change/"),
        PageState(name="user-add-error", path=f"{users}add/", prepare=_save),
        PageState(name="user-password", path=f"{users}{user}/password/"),
        PageState(name="groups", path="/admin/auth/group/"),
        PageState(name="audit-no-match", path=f"{audit}?q=nothing"),
        *(PageState(name=f"audit-{action}", path=f"{audit}{number}/change/") for action, number in records.items()),
    ]


def _add_long_names() -> str:
    """Add a queue and a vault with long names, and return that of the queue."""
    _define(_LONG_NAME)
    create_vault(name=_LONG_NAME[:64], description="Its entries are as long as those of some libraries.")
    set_entry(vault=_LONG_NAME[:64], key="B", value="https://storage.example.com/" + "x" * 90, is_secret=False)
    set_entry(vault=_LONG_NAME[:64], key="A_LONG_NAME_OF_A_VARIABLE_THAT_A_LIBRARY_PRESCRIBES_TO_ITS_USERS", value="1")
    return _LONG_NAME


def _hidden() -> list[PageState]:
    """Return pages as users see them who may not view payloads."""
    run = TaskRun.objects.filter(queue="image-tagging", outcome="failed").latest("id")
    hidden = {"role": "viewer", "is_hiding": True}
    return [
        PageState(name="list-archived", path=f"{TASKS}?queue=invoices&state=archived", **hidden),
        PageState(name="tasks-ended", path=f"{TASKS}?state=ended&outcome=failure", **hidden),
        PageState(name="errors", path=f"{ERRORS}?period=week", **hidden),
        PageState(name="task-attempts", path=f"{TASKS}invoices-0000/change/?queue=invoices", **hidden),
        PageState(name="task-ended", path=f"{TASKS}{run.task_id}/change/?queue={run.redis_queue}", **hidden),
        PageState(name="text-not-applied", path=f"{TASKS}?state=ended&text=ORD", **hidden),
        PageState(name="search", path=f"{TASKS}search/?q=ORD", **hidden),
        PageState(name="overview", path="/admin/", **hidden),
    ]


def _many() -> list[PageState]:
    """Return the pages that list what there are many of."""
    return [
        PageState(name="overview", path="/admin/"),
        PageState(name="tasks", path=TASKS),
        PageState(name="tasks-page-2", path=f"{TASKS}?page=2"),
        PageState(name="queues", path="/admin/queues/queue/"),
        PageState(name="errors", path=f"{ERRORS}?period=day"),
        PageState(name="queues-undefined", path="/admin/queues/queue/undefined/"),
    ]


def _add_tasks_in_trouble(broker: Broker) -> tuple[LeasedTask, LeasedTask]:
    """Return a task that runs and prints, and one that failed several times."""
    (running,) = take_tasks(broker, "transcription_interactive", 1, worker_id=_WORKER_ID)
    lines = "".join(f"{second // 60:02}:{second % 60:02} segment {second}: [speaker 1] …\n" for second in range(900))
    progress = b'{"current":900,"total":2400,"message":"Transcribing calls/1004.ogg"}'
    broker.run(write_output([OutputChunk(lease=running.lease, text=lines.encode(), progress=progress)]))
    error = (
        "Traceback (most recent call last):\n"
        '  File "/srv/invoices/render.py", line 112, in render\n    vat_id = customer["vat_id"]\n'
        "KeyError: 'vat_id'"
    )
    task = NewTask(
        id="invoices-ORD-2026-9001",
        queue="invoices",
        payload=b'{"order_id":"ORD-2026-9001","lines":[1,2]}',
        max_retry=4,
    )
    broker.run(enqueue(task, now_ns=broker.now_ns()))
    identity, runs = QueueIdentity(redis_queue="invoices", queue="invoices"), []
    leased = None
    while leased is None:
        (one,) = take_tasks(broker, "invoices", 1, worker_id=_WORKER_ID)
        if one.lease.task_id == task.id:
            leased = one
        else:
            broker.run(complete(one.lease, one.message, b'{"pages":2}', now_ns=broker.now_ns()))
    for attempt in range(1, 6):
        now_ns = broker.now_ns()
        text = f"attempt {attempt}\nrendering order ORD-2026-9001\nno vat_id\n"
        broker.run(write_output([OutputChunk(lease=leased.lease, text=text.encode())]))
        is_last = attempt == 5
        runs.append(
            EndedRun(
                task_id=task.id,
                run_id=f"demo-{attempt}",
                outcome=RunOutcome.FAILED if is_last else RunOutcome.RETRIED,
                is_final=is_last,
                attempt=attempt,
                enqueued_ns=now_ns - 3600 * 10**9 if attempt == 1 else None,
                started_ns=now_ns - (6 - attempt) * 600 * 10**9 - 1_250_000_000,
                ended_ns=now_ns - (6 - attempt) * 600 * 10**9,
                worker_id="office-mini:35",
                commit="8b1c0de4f2a97c35d6e1b0a4958372615f4e3d2c",
                payload=task.payload,
                error=error,
            )
        )
        if is_last:
            broker.run(archive(leased.lease, leased.message, error=error, now_ns=now_ns))
        else:
            failure = Failure(error=error, retry_at_s=broker.now_s() - 1)
            broker.run(retry(leased.lease, leased.message, failure, now_ns=now_ns))
            broker.run(forward("invoices", TaskState.RETRY, now_ns=broker.now_ns()))
            (leased,) = take_tasks(broker, "invoices", 1, worker_id=_WORKER_ID)
    gone = msgspec.structs.replace(runs[0], task_id="invoices-of-a-former-worker", worker_id="gpu-rig-0:77")
    store_runs(identity, [*runs, gone])
    return running, leased


def _add_bulk_actions() -> dict[str, BulkAction]:
    """Create a bulk action of each state."""
    now = timezone.now()
    states = {
        "waiting": {},
        "running": {"started_at": now - timedelta(seconds=40), "done": 700, "skipped": 3},
        "finished": {"started_at": now - timedelta(hours=1), "ended_at": now, "done": 1200, "skipped": 38},
        "canceled": {"started_at": now - timedelta(hours=2), "ended_at": now, "done": 400},
        "failed": {
            "started_at": now - timedelta(hours=3),
            "ended_at": now,
            "done": 17,
            "failed": 2,
            "error": "The queue invoices no longer exists.",
        },
    }
    made = {}
    for state, fields in states.items():
        made[state] = bulk = BulkAction.objects.create(
            action="run",
            query='{"queue":"invoices","outcomes":["failed"],"text":"vat_id"}',
            state=state,
            expected=1238,
            actor={"kind": "user", "name": "linus", "id": "1", "address": "10.1.4.20"},
            **fields,
        )
        if state in ("finished", "failed"):
            outcomes = BulkActionItem.Outcome
            BulkActionItem.objects.create(
                bulk_action=bulk,
                redis_queue="invoices",
                task_id="invoices-0002",
                outcome=outcomes.SKIPPED,
                note="It is active again.",
            )
            BulkActionItem.objects.create(
                bulk_action=bulk,
                redis_queue="invoices",
                task_id="invoices-run-0004",
                outcome=outcomes.DONE,
                copy_id="0198f3a2-copy",
            )
    return made


def _add_alert_deliveries() -> None:
    """Add a delivery that succeeded, one that is tried again, and one that was given up."""
    now = timezone.now()
    states = ({"delivered_at": now}, {"error": "HTTP 503"}, {"error": "connection refused", "abandoned_at": now})
    for number, alert in enumerate(Alert.objects.filter(opened_at__isnull=False).order_by("pk")):
        AlertDelivery.objects.update_or_create(
            alert=alert,
            event=DeliveryEvent.OPENED,
            defaults={"created_at": now, "due_at": now, "attempts": 3, **states[number % 3]},
        )


def _add_many(broker: Broker) -> None:
    """Add 60 queues, one without a definition, and errors of many kinds."""
    broker.run(enqueue(NewTask(id="n1", queue="newsletter", payload=b"{}"), now_ns=broker.now_ns()))
    for number in range(60):
        _define(f"customer-{number:02}")
        for task in range(number % 5):
            new = NewTask(id=f"c{number}-{task}", queue=f"customer-{number:02}", payload=b'{"n":1}')
            broker.run(enqueue(new, now_ns=broker.now_ns()))
    for number in range(_GROUPS):
        word = "".join(chr(97 + (number // 26**place) % 26) for place in range(3))
        runs = [
            EndedRun(
                task_id=f"many-{number}-{each}",
                run_id="1",
                outcome=RunOutcome.FAILED,
                is_final=True,
                attempt=1,
                started_ns=broker.now_ns() - 3600 * 10**9 * (each + 1),
                ended_ns=broker.now_ns() - 3590 * 10**9 * (each + 1),
                worker_id="office-mini:35",
                payload=b'{"n":1}',
                error=f"ImportError: cannot import name {word} from the module of a customer",
            )
            for each in range(number % 4 + 1)
        ]
        store_runs(QueueIdentity(redis_queue=f"customer-{number % 60:02}", queue=f"customer-{number % 60:02}"), runs)


def _define(name: str) -> None:
    deployment = {"git_url": f"https://git.example.com/{name}.git", "startup_cmd": "python main.py"}
    save_queue(spec=parse_queue(name, {"priority": 5, "deployment": deployment}), source=QueueSource.ADMIN)


def _task_path(leased: LeasedTask) -> str:
    from tasks.admin.presenters import task_url  # noqa: PLC0415 (needs the URL configuration)

    return task_url(leased.lease.task_id, leased.lease.queue)


def _unfold(selector: str) -> Callable[[Page], None]:
    return lambda page: page.locator(selector).first.click()


def _unfold_all(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(details => { details.open = true })")


def _press(name: str) -> Callable[[Page], None]:
    return lambda page: page.get_by_role("button", name=name).first.click()


def _enqueue(payload: str) -> Callable[[Page], None]:
    def fill_in(page: Page) -> None:
        page.locator("#id_payload").fill(payload)
        page.get_by_role("button", name="Enqueue").click()

    return fill_in


def _fail_to_log_in(page: Page) -> None:
    page.locator("#id_username").fill("mary")
    page.locator("#id_password").fill("not her password")
    page.get_by_role("button", name="Log in").click()


def _select_two(page: Page) -> None:
    boxes = page.locator("tbody input[type=checkbox]")
    for number in range(2):
        boxes.nth(number).check()


def _enter_lines(page: Page) -> None:
    page.locator("textarea").fill("S3_BUCKET=other-bucket\nS3_REGION=eu-central-1\nnot a line")
    page.get_by_role("button", name="Show what changes").click()


def _save_threshold(value: str) -> Callable[[Page], None]:
    def save(page: Page) -> None:
        page.locator("[name=threshold]").fill(value)
        _save(page)

    return save


def _save(page: Page) -> None:
    """Submit a form without the browser's validation."""
    page.evaluate("() => document.querySelectorAll('form').forEach(form => { form.noValidate = true })")
    page.locator("[name=_save]").first.click()
