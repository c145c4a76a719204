"""The list of workers and the page of one."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote, unquote
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from runqy.broker.worker_records import RunningTask, WorkerState
from runqy.connection import get_broker
from runqy.staff.moments import Moment
from vaults.delivery_queries import Holding, worker_holdings
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
"""The colours of the states' labels, by unfold's names."""

_SHOWN_COMMIT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRow:
    """A task that a worker runs."""

    id: str
    url: str
    queue: str
    queue_url: str
    started: Moment | None
    deadline: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingRow:
    """What a worker was handed out of a vault."""

    holding: Holding
    url: str
    versions: list[tuple[str, int]]
    delivered: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker as its pages show it."""

    status: WorkerStatus
    url: str
    label: str
    state: str
    commit: str
    queues: list[tuple[str, str, int]]
    """Redis queue, where its tasks are, and its priority."""
    used: int
    has_old_secrets: bool
    """A vault of its queue has changed since it was given its values."""
    last_beat: Moment | None
    started: Moment | None
    last_take: Moment | None


def show_workers(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """List the workers that were heard of in the last minute, in three round trips however many there are."""
    broker, search = get_broker(), request.GET.get("q", "").strip()
    workers = list_workers(broker)
    found = [worker for worker in workers if not search or _matches(worker, search.lower())]
    page = Paginator(sorted(found, key=_is_well), WORKERS_PER_PAGE).get_page(request.GET.get("page"))
    held = _held(request, [worker.record.worker_id for worker in page])
    now_ns = broker.now_ns()
    context |= {
        "title": "Workers",
        "rows": [_row(worker, held, now_ns) for worker in page],
        "page": page,
        "search": search,
        "total": len(workers),
        "stale": sum(worker.is_stale for worker in workers),
        "failed": sum(worker.record.state is WorkerState.START_FAILED for worker in workers),
        "used": sum(_used(worker) for worker in workers),
        "slots": sum(worker.record.concurrency for worker in workers),
        "origin": request.build_absolute_uri("/").rstrip("/"),
    }
    return TemplateResponse(request, "admin/workers/worker/list.html", context)


def show_worker(context: dict[str, Any], request: HttpRequest, object_id: str) -> HttpResponse:
    """Show one worker, the tasks that it runs, and which secrets it has."""
    broker = get_broker()
    worker = get_worker(broker, unquote(object_id))
    now_ns = broker.now_ns()
    held = _held(request, [worker.record.worker_id])
    context |= {
        "title": f"Worker {worker.record.worker_id}",
        "row": _row(worker, held, now_ns),
        "worker": worker.record,
        "running": [_running(task, now_ns) for task in worker.running],
        "holdings": [_holding(holding, now_ns) for holding in held.get(worker.record.worker_id, [])],
        "extra": sorted(worker.record.extra.items()),
    }
    return TemplateResponse(request, "admin/workers/worker/detail.html", context)


def _matches(worker: WorkerStatus, search: str) -> bool:
    """Tell whether a text occurs in what a worker is known by."""
    record = worker.record
    known_by = (record.worker_id, record.host, record.queue, record.state, record.commit, *record.redis_queues)
    return any(search in text.lower() for text in known_by)


def _is_well(worker: WorkerStatus) -> bool:
    """Tell whether a worker needs no look; those that do are listed first."""
    return not worker.is_stale and not worker.is_hindered and worker.record.state is not WorkerState.START_FAILED


def _held(request: HttpRequest, worker_ids: list[str]) -> dict[str, list[Holding]]:
    """Return what workers were given of vaults, for those who may see vaults."""
    return worker_holdings(worker_ids) if request.user.has_perm("vaults.view_vault") else {}


def _used(worker: WorkerStatus) -> int:
    """Return how many tasks a worker holds; what it says itself and what it leaves for asynq's tools may differ."""
    return max(len(worker.running), len(worker.record.running))


def _row(worker: WorkerStatus, held: dict[str, list[Holding]], now_ns: int) -> WorkerRow:
    """Return a worker as its pages show it."""
    record = worker.record
    return WorkerRow(
        status=worker,
        url=reverse("admin:workers_worker_change", args=[quote(record.worker_id)]),
        label=_VARIANTS[record.state],
        state=(record.foreign_status or record.state).replace("_", " "),
        commit=record.commit[:_SHOWN_COMMIT],
        queues=[(name, _tasks_url(name, "active"), priority) for name, priority in sorted(record.redis_queues.items())],
        used=_used(worker),
        has_old_secrets=not all(holding.is_current for holding in held.get(record.worker_id, [])),
        last_beat=Moment.of_s(record.last_beat_s, now_ns),
        started=Moment.of_s(record.started_at_s, now_ns),
        last_take=Moment.of_s(record.last_take_s, now_ns),
    )


def _running(task: RunningTask, now_ns: int) -> RunningRow:
    """Return a running task as the page shows it."""
    path = reverse("admin:tasks_task_change", args=[quote(task.task_id)])
    return RunningRow(
        id=task.task_id,
        url=f"{path}?{urlencode({'queue': task.redis_queue})}",
        queue=task.redis_queue,
        queue_url=_tasks_url(task.redis_queue, "active"),
        started=Moment.of_ns(task.started_ns, now_ns),
        deadline=Moment.of_s(task.deadline_s, now_ns),
    )


def _holding(holding: Holding, now_ns: int) -> HoldingRow:
    """Return what a worker was given of a vault as the page shows it."""
    return HoldingRow(
        holding=holding,
        url=f"{reverse('admin:vaults_vault_changelist')}?{urlencode({'q': holding.vault})}",
        versions=sorted(holding.versions.items()),
        delivered=Moment.of_s(int(holding.delivered_at.timestamp()), now_ns),
    )


def _tasks_url(redis_queue: str, state: str) -> str:
    """Return where the tasks of a Redis queue in a state are."""
    return f"{reverse('admin:tasks_task_changelist')}?{urlencode({'queue': redis_queue, 'state': state})}"
