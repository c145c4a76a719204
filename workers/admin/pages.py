"""The list of workers, and the page of a worker."""

from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from queues.releases import find_commits
from runqy.admin_site import labels
from runqy.admin_site.times import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.broker.states import TaskState
from runqy.broker.workers.records import RunningTask, WorkerAction, WorkerState, count_workers
from runqy.errors import WorkerNotFound, WorkerUnreachable
from runqy.redis_connection import get_broker
from tasks.history.queries import RunFilter, list_runs
from vaults.access_log import get_worker_vaults
from vaults.models import VaultDelivery
from workers.operations import request_worker_action
from workers.queries import HeldTask, WorkerStatus, get_worker, list_workers

WORKERS_PER_PAGE = 100
MAX_LOST = 50
"""The number of lost workers that the list shows, the last ones."""

_VARIANTS = {
    WorkerState.STARTING: "info",
    WorkerState.DEPLOYING: "info",
    WorkerState.READY: "success",
    WorkerState.START_FAILED: "danger",
    WorkerState.RESTARTING: "info",
    WorkerState.DRAINING: "warning",
    WorkerState.STOPPING: "warning",
    WorkerState.DISCONNECTED: "danger",
    WorkerState.LOST: "danger",
}
"""The variant of unfold's label for each state."""

_TASK_VARIANTS = {
    "active": labels.INFO,
    "completed": labels.SUCCESS,
    "retry": labels.WARNING,
    "archived": labels.DANGER,
    "failed": labels.DANGER,
}
_DONE = {
    WorkerAction.DRAIN: "The worker drains within seconds, and exits when its tasks have ended.",
    WorkerAction.RESTART: "The worker restarts its children within seconds, each between two tasks.",
    WorkerAction.STOP: "The worker stops within seconds and its shutdown_timeout.",
}

_STOP_CONSEQUENCE = (
    "Its whole process ends, with all its queues. Tasks that run for longer than its shutdown_timeout go back to their "
    "queues. They spend no retry."
)


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
class HeldRow:
    """A task that a lost worker had."""

    id: str
    url: str
    queue: str
    state: str
    variant: str
    other_worker: str
    """Another worker that runs it, or ran it last."""
    other_url: str
    waits_for_lease: bool
    """Whether it is still leased to the lost worker."""


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
    queues: list[tuple[str, str, int]]
    """Redis queues, each with the URL of its tasks and its priority."""
    busy: int
    held: list[tuple[str, int]]
    """The number of tasks that a lost worker had, by what became of them."""
    has_outdated_secrets: bool
    """Whether a vault of its queue has changed since it received the values."""
    last_beat: RelativeTime | None
    started: RelativeTime | None
    last_take: RelativeTime | None


class WorkersView(AdminView):
    """The workers that sent a heartbeat in the last minute, and those lost in the last day, in three round trips."""

    title = "Workers"
    template_name = "admin/workers/worker/list.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request, broker = self.request, get_broker()
        search, queue = request.GET.get("q", "").strip(), request.GET.get("queue", "")
        listed = list_workers(broker, allowed_queues=frozenset({queue}) if queue else None)
        workers = listed.live
        found = [worker for worker in workers if not search or _matches(worker, search.lower())]
        lost = [worker for worker in listed.lost if not search or _matches(worker, search.lower())]
        page = Paginator(sorted(found, key=_is_healthy), WORKERS_PER_PAGE).get_page(request.GET.get("page"))
        secrets = _get_secrets(request, [worker.record.worker_id for worker in page])
        now_ns = broker.now_ns()
        shown = [worker.record for worker in (*page, *lost[:MAX_LOST])]
        return super().get_context_data(**kwargs) | {
            "rows": [_row(worker, secrets, now_ns) for worker in page],
            "lost": [_row(worker, {}, now_ns) for worker in lost[:MAX_LOST]],
            "commits": find_commits((record.queue, record.commit) for record in shown),
            "lost_count": len(lost),
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
            "commits": find_commits([(worker.record.queue, worker.record.commit)]),
            "running": [_running(task, now_ns) for task in worker.running],
            "may_stop": request.user.has_perm("workers.stop_worker"),
            "held": [_held(task, worker_id) for task in worker.held],
            "vault_statuses": [_secret_row(each, now_ns) for each in secrets.get(worker_id, [])],
            "extra": sorted(worker.record.extra.items()),
        }


class WorkerRequestView(AdminView):
    """Asks a worker to drain, to restart its children, or, after a confirmation, to stop."""

    http_method_names = ("post",)
    permission = "stop"
    template_name = "admin/tasks/task/confirm.html"

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        worker_id, action = unquote(object_id), request.POST.get("action", "")
        if action not in _DONE:
            raise Http404
        if action == WorkerAction.STOP and "confirmed" not in request.POST:
            return self.render_to_response(self.get_context_data() | _stop_question(worker_id))
        try:
            requested = request_worker_action(worker_id, WorkerAction(action))
        except WorkerUnreachable as error:
            messages.error(request, error.detail)
        else:
            messages.success(request, _DONE[requested.action])
        return HttpResponseRedirect(_worker_url(worker_id))


def _stop_question(worker_id: str) -> dict[str, Any]:
    worker = get_worker(get_broker(), worker_id)
    return {
        "title": "Stop a worker",
        "question": f"Stop worker {worker_id}?",
        "facts": [("Queue", worker.record.queue), ("Running tasks", f"{_busy_slots(worker):,}")],
        "labels": {"label": "Stop", "consequence": _STOP_CONSEQUENCE, "needs_confirmation": True},
        "form_url": reverse("admin:workers_worker_request", args=[quote(worker_id)]),
        "fields": [("action", WorkerAction.STOP.value), ("confirmed", "yes")],
        "back_url": _worker_url(worker_id),
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
        url=_worker_url(record.worker_id),
        label=_VARIANTS[record.state],
        state=((not worker.is_stale and record.foreign_status) or record.state).replace("_", " "),
        queues=[(name, _tasks_url(name, "active"), priority) for name, priority in sorted(record.redis_queues.items())],
        busy=_busy_slots(worker),
        held=sorted(Counter(task.state for task in worker.held).items()),
        has_outdated_secrets=not all(delivery.is_current for delivery in secrets.get(record.worker_id, [])),
        last_beat=RelativeTime.of_s(record.last_beat_s, now_ns),
        started=RelativeTime.of_s(record.started_at_s, now_ns),
        last_take=RelativeTime.of_s(record.last_take_s, now_ns),
    )


def _running(task: RunningTask, now_ns: int) -> RunningRow:
    return RunningRow(
        id=task.task_id,
        url=_task_url(task.task_id, task.redis_queue),
        queue=task.redis_queue,
        queue_url=_tasks_url(task.redis_queue, "active"),
        started=RelativeTime.of_ns(task.started_ns, now_ns),
        deadline=RelativeTime.of_s(task.deadline_s, now_ns, is_due=True),
    )


def _held(task: HeldTask, lost_worker_id: str) -> HeldRow:
    other = task.worker_id if task.worker_id != lost_worker_id else ""
    return HeldRow(
        id=task.task_id,
        url=_task_url(task.task_id, task.redis_queue),
        queue=task.redis_queue,
        state=task.state,
        variant=_TASK_VARIANTS.get(task.state, labels.NEUTRAL),
        other_worker=other,
        other_url=_worker_url(other) if other else "",
        waits_for_lease=task.state == TaskState.ACTIVE and not other,
    )


def _secret_row(delivery: VaultDelivery, now_ns: int) -> SecretRow:
    return SecretRow(
        delivery=delivery,
        url=f"{reverse('admin:vaults_vault_changelist')}?{urlencode({'q': delivery.vault})}",
        versions=sorted(delivery.versions.items()),
        delivered=RelativeTime.of_s(int(delivery.at.timestamp()), now_ns),
    )


def _worker_url(worker_id: str) -> str:
    return reverse("admin:workers_worker_change", args=[quote(worker_id)])


def _task_url(task_id: str, redis_queue: str) -> str:
    path = reverse("admin:tasks_task_change", args=[quote(task_id)])
    return f"{path}?{urlencode({'queue': redis_queue})}"


def _tasks_url(redis_queue: str, state: str) -> str:
    return f"{reverse('admin:tasks_task_changelist')}?{urlencode({'queue': redis_queue, 'state': state})}"
