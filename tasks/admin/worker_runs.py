"""The runs of a worker in the last hour, for its page."""

from collections import Counter
from typing import Any

from django.http import HttpRequest

from runqy.admin_site.views import AdminView
from runqy.core.formats.durations import humanize_ms
from runqy.errors import RequestInvalid
from tasks.admin.filters import start_of_period
from tasks.admin.presenters import OUTCOME_NAMES, ShownRun, tasks_url
from tasks.history.queries import RunFilter, list_newest_outcomes, list_runs
from tasks.search import TaskQuery

_LISTED = 10
_MAX_COUNTED = 5_000


class WorkerRunsView(AdminView):
    """What `worker` did in the last hour. A part of the worker's page."""

    template_name = "admin/tasks/task/worker_runs.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        worker_id = self.request.GET.get("worker", "")
        if not worker_id or "\0" in worker_id:
            raise RequestInvalid("worker: Must be the id of a worker.")
        summary = _read_worker_runs(self.request, worker_id)
        return super().get_context_data(**kwargs, summary=summary)


def _read_worker_runs(request: HttpRequest, worker_id: str) -> dict[str, Any]:
    """Return the context of the template."""
    filters = RunFilter(worker_id=worker_id, since=start_of_period("hour"))
    ended = list_newest_outcomes(filters, limit=_MAX_COUNTED + 1)
    counts = Counter(outcome for outcome, _ in ended[:_MAX_COUNTED])
    durations = sorted(run_ms for _, run_ms in ended if run_ms is not None)
    query = TaskQuery(worker_id=worker_id)
    return {
        "rows": [ShownRun.of(run, request.user) for run in list_runs(filters, limit=_LISTED).runs],
        "total": sum(counts.values()),
        "is_exact": len(ended) <= _MAX_COUNTED,
        "outcomes": [
            (OUTCOME_NAMES[outcome], counts[outcome], tasks_url(query, period="hour", outcome=outcome.value))
            for outcome in OUTCOME_NAMES
            if counts[outcome]
        ],
        "median": humanize_ms(durations[len(durations) // 2]) if durations else "",
        "longest": humanize_ms(durations[-1]) if durations else "",
        "url": tasks_url(query, period="hour"),
        "slowest_url": tasks_url(query, period="hour", sort="slowest"),
        "all_url": tasks_url(query),
    }
