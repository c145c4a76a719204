"""The list of workers, and the page of a worker."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote, unquote
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.urls import reverse

from runqy.admin_site.relative_time import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.broker.workers.records import RunningTask, WorkerState, count_workers
from runqy.errors import WorkerNotFound
from runqy.redis_connection import get_broker
from tasks.history.queries import RunFilter, list_runs
from vaults.access_log import get_worker_vaults
from vaults.models import VaultDelivery
from workers.queries import WorkerStatus, get_worker, list_workers

WORKERS_PER_PAGE = 100

_VARIANTS = {
    WorkerState.STARTING: "info",
    WorkerState.DEPLOYING: "info",
    WorkerState.READY: "success",
    WorkerState.START_FAILED: "danger",
    WorkerState.DRAINING: "warning",
    WorkerState.DISCONNECTED: "danger",
}
"""The variant of unfold's label for each state."""

_COMMIT_LENGTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRow:
    """A task that a worker runs."""

    id: str
    url: str
    queue: str
    queue_url: str
    started: RelativeTime | None
    deadline: RelativeTime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRow:
    """The values of a vault that a worker received."""

    delivery: VaultDelivery
    url: str
    versions: list[tuple[str, int]]
    delivered: RelativeTime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker as its pages show it."""

    status: WorkerStatus
    url: str
    label: str
    state: str
    commit: str
    queues: list[tuple[str, str, int]]
    """Redis queues, each with the URL of its tasks and its priority."""
    busy: int
    has_outdated_secrets: bool
    """Whether a vault of its queue has changed since it received the values."""
    last_beat: RelativeTime | None
    started: RelativeTime | None
    last_take: RelativeTime | None


class WorkersView(AdminView):
    """The workers that sent a heartbeat in the last minute, in three round trips."""

    title = "Workers"
    template_name = "admin/workers/worker/list.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request, broker = self.request, get_broker()
        search, queue = request.GET.get("q", "").strip(), request.GET.get("queue", "")
        workers = list_workers(broker, allowed_queues=frozenset({queue}) if queue else None)
        found = [worker for worker in workers if not search or _matches(worker, search.lower())]
        page = Paginator(sorted(found, key=_is_healthy), WORKERS_PER_PAGE).get_page(request.GET.get("page"))
        secrets = _get_secrets(request, [worker.record.worker_id for worker in page])
        now_ns = broker.now_ns()
        return super().get_context_data(**kwargs) | {
            "rows": [_row(worker, secrets, now_ns) for worker in page],
            "page": page,
            "search": search,
            "queue": queue,
            "query": urlencode({name: value for name, value in request.GET.items() if name != "page"}),
            "counts": count_workers([worker.record for worker in workers], now_s=broker.now_s()),
            "failed": len({worker.record.process for worker in workers if _has_failed(worker)}),
            "busy": sum(_busy_slots(worker) for worker in workers),
            "slots": sum(worker.record.concurrency for worker in workers),
            "origin": request.build_absolute_uri("/").rstrip("/"),
        }


class WorkerView(AdminView):
    """A worker, the tasks that it runs and has run, and the secrets that it received.

    Lists of runs link to workers that are only in the history. Their page shows only their runs.
    """

    template_name = "admin/workers/worker/detail.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request, broker, worker_id = self.request, get_broker(), unquote(self.kwargs["object_id"])
        context = super().get_context_data(**kwargs) | {"title": f"Worker {worker_id}"}
        try:
            worker = get_worker(broker, worker_id)
        except WorkerNotFound as error:
            if not (request.user.has_perm("tasks.view_task") and _has_runs(worker_id)):
                raise
            self.template_name = "admin/workers/worker/former.html"
            return context | {"worker_id": worker_id, "message": error.detail}
        now_ns = broker.now_ns()
        secrets = _get_secrets(request, [worker_id])
        return context | {
            "row": _row(worker, secrets, now_ns),
            "worker": worker.record,
            "running": [_running(task, now_ns) for task in worker.running],
            "vault_statuses": [_secret_row(each, now_ns) for each in secrets.get(worker_id, [])],
            "extra": sorted(worker.record.extra.items()),
        }


def _has_runs(worker_id: str) -> bool:
    # PostgreSQL refuses NUL in a text.
    return "\0" not in worker_id and bool(list_runs(RunFilter(worker_id=worker_id), limit=1).runs)


def _matches(worker: WorkerStatus, search: str) -> bool:
    record = worker.record
    fields = (record.worker_id, record.host, record.queue, record.state, record.commit, *record.redis_queues)
    return any(search in text.lower() for text in fields)


def _has_failed(worker: WorkerStatus) -> bool:
    return worker.record.state is WorkerState.START_FAILED


def _is_healthy(worker: WorkerStatus) -> bool:
    # Workers that need attention are listed first.
    return not worker.is_stale and not worker.has_problem and not _has_failed(worker)


def _get_secrets(request: HttpRequest, worker_ids: list[str]) -> dict[str, list[VaultDelivery]]:
    """Return what workers received from vaults; nothing for users who may not view vaults."""
    return get_worker_vaults(worker_ids) if request.user.has_perm("vaults.view_vault") else {}


def _busy_slots(worker: WorkerStatus) -> int:
    # What the worker writes for asynq's tools, and into its own record, may differ for a moment.
    return max(len(worker.running), len(worker.record.running))


def _row(worker: WorkerStatus, secrets: dict[str, list[VaultDelivery]], now_ns: int) -> WorkerRow:
    record = worker.record
    return WorkerRow(
        status=worker,
        url=reverse("admin:workers_worker_change", args=[quote(record.worker_id)]),
        label=_VARIANTS[record.state],
        state=((not worker.is_stale and record.foreign_status) or record.state).replace("_", " "),
        commit=record.commit[:_COMMIT_LENGTH],
        queues=[(name, _tasks_url(name, "active"), priority) for name, priority in sorted(record.redis_queues.items())],
        busy=_busy_slots(worker),
        has_outdated_secrets=not all(delivery.is_current for delivery in secrets.get(record.worker_id, [])),
        last_beat=RelativeTime.of_s(record.last_beat_s, now_ns),
        started=RelativeTime.of_s(record.started_at_s, now_ns),
        last_take=RelativeTime.of_s(record.last_take_s, now_ns),
    )


def _running(task: RunningTask, now_ns: int) -> RunningRow:
    path = reverse("admin:tasks_task_change", args=[quote(task.task_id)])
    return RunningRow(
        id=task.task_id,
        url=f"{path}?{urlencode({'queue': task.redis_queue})}",
        queue=task.redis_queue,
        queue_url=_tasks_url(task.redis_queue, "active"),
        started=RelativeTime.of_ns(task.started_ns, now_ns),
        deadline=RelativeTime.of_s(task.deadline_s, now_ns, is_due=True),
    )


def _secret_row(delivery: VaultDelivery, now_ns: int) -> SecretRow:
    return SecretRow(
        delivery=delivery,
        url=f"{reverse('admin:vaults_vault_changelist')}?{urlencode({'q': delivery.vault})}",
        versions=sorted(delivery.versions.items()),
        delivered=RelativeTime.of_s(int(delivery.at.timestamp()), now_ns),
    )


def _tasks_url(redis_queue: str, state: str) -> str:
    return f"{reverse('admin:tasks_task_changelist')}?{urlencode({'queue': redis_queue, 'state': state})}"
