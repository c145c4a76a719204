"""The pages of the admin in every state that they can have, to review how they look."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from playwright.sync_api import Page

from alerts.models import Alert, AlertRule
from batches.models import Batch
from queues.models import Queue
from runqy.accounts.models import ApiKey
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.tasks.lease import LeasedTask
from schedules.models import Schedule
from tasks.models import TaskRun
from tools.demo.data import fill
from tools.demo.edge_cases import (
    LONG_NAME,
    add_alert_deliveries,
    add_bulk_actions,
    add_long_names,
    add_lost_worker,
    add_many,
    add_tasks_in_trouble,
    define_queue,
)
from tools.demo.stack import DemoServer
from vaults.models import Vault
from webhooks.models import Endpoint

TASKS = "/admin/tasks/task/"
ERRORS = f"{TASKS}errors/"
BULK = "/admin/tasks/bulkaction/"


def _do_nothing(page: Page) -> None:
    """Leave the page as it was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """A page in a state, and the name of its picture."""

    name: str
    path: str
    prepare: Callable[[Page], None] = _do_nothing
    role: str | None = "admin"
    """The role of the user. Empty: a user without a role. None: nobody is logged in."""
    is_hiding: bool = False
    """Whether the server hides payloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A state of the whole instance."""

    name: str
    pages: list[PageState]
    keep_alive: Callable[[], None] = lambda: None
    """Called before each picture, to send the workers' heartbeats."""


def stages(server: DemoServer, broker: Broker, wanted: set[str]) -> Iterator[Stage]:
    """Yield the stages in order, each after it was reached. `wanted` names some of them; if it is empty, all are
    yielded.

    The instance cannot go back: a stage has the data of all earlier ones.
    """

    def is_wanted(name: str) -> bool:
        return not wanted or name in wanted

    if is_wanted("empty"):
        yield Stage(name="empty", pages=_lists())
    define_queue("mail")
    if is_wanted("one"):
        yield Stage(name="one", pages=_one_queue())
    keep_alive = fill(broker)
    if is_wanted("full"):
        yield Stage(name="full", pages=full_pages(broker), keep_alive=keep_alive)
    if is_wanted("hidden"):
        yield Stage(name="hidden", pages=_hidden(), keep_alive=keep_alive)
    if is_wanted("many"):
        add_many(broker)
        yield Stage(name="many", pages=_many(), keep_alive=keep_alive)
    server.redis.kill()
    if is_wanted("no-redis"):
        yield Stage(name="no-redis", pages=_lists(), keep_alive=lambda: None)
    (server.folder / "db.sqlite3").rename(server.folder / "moved.sqlite3")
    (server.folder / "db.sqlite3").mkdir()
    if is_wanted("no-database"):
        yield Stage(name="no-database", pages=[PageState(name="overview", path="/admin/")])


def _lists() -> list[PageState]:
    """Return the pages that exist in an empty instance."""
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
        PageState(name="schedules", path="/admin/schedules/schedule/"),
        PageState(name="alerts", path="/admin/alerts/alert/"),
        PageState(name="rules", path="/admin/alerts/alertrule/"),
        PageState(name="webhooks", path="/admin/webhooks/endpoint/"),
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
    """Add what `fill` does not create, and return the pages of a busy instance."""
    running, failing = add_tasks_in_trouble(broker)
    bulks = add_bulk_actions()
    lost = add_lost_worker(broker)
    add_alert_deliveries()
    run = TaskRun.objects.filter(queue="image-tagging", outcome="failed").latest("id")
    queue = Queue.objects.get(name="transcription").pk
    alert = Alert.objects.filter(resolved_at=None).latest("pk")
    filtered = {"state": "ended", "queue": "image-tagging", "outcome": "failure", "worker": "gpu-rig-2:988"}
    return [
        *_lists(),
        PageState(name="overview-24h-queue", path="/admin/?range=24h&queue=invoices"),
        PageState(name="overview-7d", path="/admin/?range=7d"),
        PageState(name="overview-table", path="/admin/", prepare=_unfold("#chart-throughput summary")),
        PageState(name="overview-unknown-queue", path="/admin/?queue=nothing"),
        PageState(name="login-error", path="/admin/login/", role=None, prepare=_fail_to_log_in),
        PageState(name="list-selected", path=f"{TASKS}?queue=invoices&state=archived", prepare=_select_two),
        PageState(name="queues-selected", path="/admin/queues/queue/", prepare=_select_two),
        PageState(name="queues-columns", path="/admin/queues/queue/", prepare=_unfold(".rq-columns summary")),
        PageState(name="queue", path=f"/admin/queues/queue/{queue}/change/"),
        PageState(name="releases", path=f"{TASKS}releases/?queue=invoices"),
        PageState(name="tasks-of-queue", path=f"{TASKS}?parent=transcription"),
        *(
            PageState(name=f"list-{state}", path=f"{TASKS}?queue={name}&state={state}")
            for state, name in (
                *(("pending", "transcription_overnight"), ("active", "transcription_interactive")),
                *(("scheduled", "invoices"), ("retry", "image-tagging"), ("archived", "invoices")),
                ("completed", "image-tagging"),
            )
        ),
        PageState(name="list-completed-none", path=f"{TASKS}?queue=transcription_interactive&state=completed"),
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
        PageState(name="worker-lost", path=f"/admin/workers/worker/{quote(lost)}/change/"),
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
    users, audit, webhooks = "/admin/auth/user/", "/admin/audit/auditrecord/", "/admin/webhooks/endpoint/"
    failing, long = (Queue.objects.get(name=name).pk for name in ("invoices", add_long_names()))
    vault, long_vault = (Vault.objects.get(name=name).pk for name in ("object-storage", LONG_NAME[:64]))
    key, user = ApiKey.objects.get(name="web shop").pk, User.objects.get(username="linus").pk
    schedule, batch = Schedule.objects.get(name="monthly-invoices").pk, Batch.objects.get().pk
    rule, endpoint = AlertRule.objects.get(kind="failure_rate").pk, Endpoint.objects.earliest("created_at")
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
        PageState(name="batch", path=f"/admin/batches/batch/{batch}/change/"),
        PageState(name="schedule", path=f"/admin/schedules/schedule/{schedule}/change/"),
        PageState(name="schedule-viewer", path=f"/admin/schedules/schedule/{schedule}/change/", role="viewer"),
        PageState(name="schedule-add", path="/admin/schedules/schedule/add/"),
        PageState(name="schedule-add-error", path="/admin/schedules/schedule/add/", prepare=_save),
        PageState(name="webhooks", path=webhooks),
        *(
            PageState(name=f"webhook-{name}", path=f"{webhooks}{row.pk}/change/")
            for name, row in zip(("failing", "working"), Endpoint.objects.order_by("-created_at"), strict=True)
        ),
        PageState(name="webhook-viewer", path=f"{webhooks}{endpoint.pk}/change/", role="viewer"),
        PageState(name="webhook-add-error", path=f"{webhooks}add/", prepare=_save),
        PageState(name="vault", path=f"{vaults}{vault}/change/"),
        PageState(name="vault-long-names", path=f"{vaults}{long_vault}/change/"),
        PageState(name="vault-viewer", path=f"{vaults}{long_vault}/change/", role="viewer"),
        PageState(name="vault-preview", path=f"{vaults}{vault}/bulk-edit/", prepare=_enter_lines),
        PageState(name="vault-versions", path=f"{vaults}{vault}/entries/S3_BUCKET/"),
        *(
            PageState(name=f"vault-{name}", path=f"{vaults}{vault}/{name}/")
            for name in ("bulk-edit", "deliveries", "delete")
        ),
        PageState(name="key", path=f"{keys}{key}/change/"),
        PageState(name="key-add", path=f"{keys}add/"),
        PageState(name="key-add-error", path=f"{keys}add/", prepare=_save),
        PageState(name="key-revoke", path=f"{keys}{key}/revoke/"),
        PageState(name="own-keys", path="/admin/api-keys/"),
        PageState(name="own-settings", path="/admin/settings/"),
        PageState(name="keyboard", path=users, prepare=lambda page: page.keyboard.press("?")),
        PageState(name="start", path="/", role=None),
        PageState(name="swagger", path="/swagger/index.html", role=None),
        PageState(name="users", path=users),
        PageState(name="user", path=f"{users}{user}/change/"),
        PageState(name="user-add-error", path=f"{users}add/", prepare=_save),
        PageState(name="user-password", path=f"{users}{user}/password/"),
        PageState(name="groups", path="/admin/auth/group/"),
        PageState(name="audit-no-match", path=f"{audit}?q=nothing"),
        *(PageState(name=f"audit-{action}", path=f"{audit}{number}/change/") for action, number in records.items()),
    ]


def _hidden() -> list[PageState]:
    """Return pages as users see them who must not view payloads."""
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
    """Return the pages with long lists."""
    return [
        PageState(name="overview", path="/admin/"),
        PageState(name="tasks", path=TASKS),
        PageState(name="tasks-page-2", path=f"{TASKS}?page=2"),
        PageState(name="queues", path="/admin/queues/queue/"),
        PageState(name="errors", path=f"{ERRORS}?period=day"),
        PageState(name="queues-undefined", path="/admin/queues/queue/undefined/"),
    ]


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
