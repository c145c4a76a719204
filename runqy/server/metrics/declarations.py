"""Every metric of /metrics: its name, type and labels, and the text of its HELP line and of the documentation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

Family = TypeVar("Family", bound=Metric)
_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


@dataclass(frozen=True, slots=True)
class MetricInfo(Generic[Family]):
    """A metric. `text` is Markdown, with links relative to docs/reference/."""

    name: str
    labels: tuple[str, ...]
    text: str
    _make: Callable[..., Family]

    @property
    def help(self) -> str:
        """Return the text without its links."""
        return _LINK.sub(r"\1", self.text)

    @property
    def kind(self) -> str:
        return self.family().type

    def family(self, values: Mapping[str, float] | None = None) -> Family:
        """Return an empty family, or one with a value for each value of its only label."""
        family = self._make(self.name, self.help, labels=self.labels)
        for label, value in (values or {}).items():
            family.add_sample(self.name, {self.labels[0]: label}, value)
        return family

    def single(self, value: float) -> Family:
        """Return the family of a metric without labels."""
        family = self.family()
        family.add_sample(self.name, {}, value)
        return family


METRICS: dict[str, MetricInfo[Metric]] = {}
"""All metrics, by name, in the order of the documentation."""


def _declare(make: Callable[..., Family], name: str, text: str, *labels: str) -> MetricInfo[Family]:
    info = MetricInfo(name, labels, text, make)
    METRICS[name] = info  # type: ignore[assignment]  # a MetricInfo is only read
    return info


TASKS = _declare(
    GaugeMetricFamily,  # against Prometheus's conventions for names, but dashboards of asynq read this one
    "asynq_tasks_enqueued_total",
    "tasks now: `active`, `pending`, `scheduled`, `retry`, `archived`, `completed`",
    "queue",
    "state",
)
QUEUE_SIZE = _declare(GaugeMetricFamily, "asynq_queue_size", "all tasks of the queue", "queue")
QUEUE_LATENCY = _declare(GaugeMetricFamily, "asynq_queue_latency_seconds", "age of the oldest pending task", "queue")
QUEUE_MEMORY = _declare(
    GaugeMetricFamily,
    "asynq_queue_memory_usage_approx_bytes",
    "memory in Redis, estimated from samples every half minute",
    "queue",
)
PROCESSED = _declare(
    CounterMetricFamily,
    "asynq_tasks_processed_total",
    "ended attempts, failed or not, of any program's workers",
    "queue",
)
FAILED = _declare(CounterMetricFamily, "asynq_tasks_failed_total", "failed attempts, of any program's workers", "queue")
PAUSED = _declare(GaugeMetricFamily, "asynq_queue_paused_total", "1 while the queue is paused", "queue")
RUNS = _declare(
    CounterMetricFamily,
    "runqy_task_runs_total",
    "attempts of runqy's workers by [outcome](states.md#outcomes), tasks that were cancelled or expired while they "
    "waited, lost runs of any program's workers, and `requeued` (not run, interrupted by the end of the worker, or "
    "ended by the death of a process that ran other tasks too)",
    "queue",
    "outcome",
)
FIRST_ATTEMPTS = _declare(
    CounterMetricFamily,
    "runqy_first_attempts_total",
    "those of `runqy_task_runs_total` that were the first attempt of their task, and tasks that ended without any",
    "queue",
    "outcome",
)
TASKS_ENDED = _declare(
    CounterMetricFamily,
    "runqy_tasks_ended_total",
    "tasks that ended for good, by the outcome of their last attempt. [Failure rates](#failure-rates) are those of "
    "tasks and of first attempts",
    "queue",
    "outcome",
)
RUNS_DROPPED = _declare(
    CounterMetricFamily,
    "runqy_history_runs_dropped_total",
    "ended runs that are missing from the [history](history.md), because the stream of the queue was full",
    "queue",
)
WAIT_TIME = _declare(
    HistogramMetricFamily, "runqy_task_wait_seconds", "time from pending to the start of the run", "queue"
)
RUN_TIME = _declare(
    HistogramMetricFamily,
    "runqy_task_run_seconds",
    "duration of runs; `rate(runqy_task_run_seconds_sum[5m])` is the mean number of tasks at a time",
    "queue",
)
WORKER_PROCESSES = _declare(
    GaugeMetricFamily,
    "runqy_worker_processes",
    "worker processes, counted as on the overview: `ready` for at least one queue, `not_ready`, `disconnected` (no "
    "heartbeat). A process that serves several queues counts once",
    "state",
)
WORKERS = _declare(
    GaugeMetricFamily,
    "runqy_workers",
    "workers that serve the queue; a process counts in each of its queues: `starting`, `deploying`, `ready`, "
    "`start_failed`, `draining`, `disconnected`",
    "queue",
    "state",
)
SLOTS = _declare(GaugeMetricFamily, "runqy_worker_slots", "tasks that the workers of a queue can run at once", "queue")
SLOTS_BUSY = _declare(
    GaugeMetricFamily, "runqy_worker_slots_busy", "tasks that the workers of a queue run at the moment", "queue"
)
DEMAND = _declare(
    GaugeMetricFamily,
    "runqy_queue_demand",
    "tasks of the queue, with all its sub-queues, that need a slot now: pending and active. These figures are "
    "[explained](../how-to/autoscaling.md)",
    "queue",
)
DEMAND_PENDING = _declare(GaugeMetricFamily, "runqy_queue_pending", "pending tasks of the queue", "queue")
DEMAND_ACTIVE = _declare(GaugeMetricFamily, "runqy_queue_active", "running tasks of the queue", "queue")
DEMAND_DUE = _declare(
    GaugeMetricFamily,
    "runqy_queue_scheduled_due",
    "scheduled tasks and retries of the queue that become pending next",
    "queue",
)
DEMAND_OLDEST = _declare(
    GaugeMetricFamily, "runqy_queue_oldest_pending_seconds", "age of the oldest pending task of the queue", "queue"
)
DEMAND_SLOTS = _declare(
    GaugeMetricFamily, "runqy_queue_slots", "tasks that the queue's ready workers can run at once", "queue"
)
DEMAND_ARRIVALS = _declare(
    GaugeMetricFamily,
    "runqy_queue_arrivals_per_second",
    "tasks a second that became pending in the last five minutes; missing while it is not known",
    "queue",
)
DEMAND_MEAN_RUN = _declare(
    GaugeMetricFamily,
    "runqy_queue_mean_run_seconds",
    "mean duration of the runs of the last five minutes, or of the last ones before; missing until the first",
    "queue",
)
DESIRED_WORKERS = _declare(
    GaugeMetricFamily,
    "runqy_queue_desired_workers",
    "workers that the queue needs so that its tasks start within 30 s",
    "queue",
)
DEMAND_REASON = _declare(
    GaugeMetricFamily,
    "runqy_queue_demand_reason",
    "1 for why tasks of the queue do not run: `no_worker`, `workers_failed`, `paused`, `none`",
    "queue",
    "reason",
)
RELEASE = _declare(
    GaugeMetricFamily,
    "runqy_queue_release",
    "number of the queue's [release](../how-to/releases.md) that is `live`, and of the one that is `rolling_out`; 0: "
    "there is none",
    "queue",
    "state",
)
BATCH_SIZE = _declare(
    SummaryMetricFamily,
    "runqy_worker_batch_size",
    "tasks of the [batches](protocol.md#batches) that the workers of a queue sent to its processes, "
    "without tasks that run singly after their batch failed or their process died; the mean is "
    "`rate(runqy_worker_batch_size_sum[5m]) / rate(runqy_worker_batch_size_count[5m])`",
    "queue",
)
CHILD_RESTARTS = _declare(
    CounterMetricFamily,
    "runqy_worker_child_restarts_total",
    "children of a queue's workers that ended unexpectedly or did not start",
    "queue",
)
SHARED_DEATHS = _declare(
    CounterMetricFamily,
    "runqy_worker_shared_deaths_total",
    "children of a queue's workers that [died while they ran several tasks](protocol.md#when-a-child-dies)",
    "queue",
)
DEPLOYMENTS = _declare(
    CounterMetricFamily,
    "runqy_worker_deployments_total",
    "deployments of a queue: `succeeded`, `failed`",
    "queue",
    "outcome",
)
HTTP_DURATION = _declare(
    HistogramMetricFamily,
    "runqy_http_request_duration_seconds",
    "time to the head of the response; `route` is the template, with `?wait` where the client waits for a task, and "
    "`other` without a route. 499: the client disconnected",
    "route",
    "method",
    "status",
)
HTTP_IN_FLIGHT = _declare(
    GaugeMetricFamily,
    "runqy_http_requests_in_flight",
    "requests in progress: `data` on the event loop, `control` in Django",
    "plane",
)
WAITERS = _declare(
    GaugeMetricFamily,
    "runqy_waiters",
    "requests that wait for results or follow events; each web process allows [`RUNQY_MAX_WAITERS`](settings.md)",
)
REDIS_UP = _declare(GaugeMetricFamily, "runqy_redis_up", "1 if Redis responds to this server")
REDIS_ROUND_TRIP = _declare(GaugeMetricFamily, "runqy_redis_round_trip_seconds", "the duration of a PING to Redis")
MAINTENANCE_UP = _declare(
    GaugeMetricFamily, "runqy_maintenance_up", "1 if a maintenance process reported in the last minute"
)
SNAPSHOT_AGE = _declare(
    GaugeMetricFamily,
    "runqy_config_snapshot_age_seconds",
    "time since the configuration was last confirmed, of the web process where it is longest",
)
PUBLICATION = _declare(
    GaugeMetricFamily,
    "runqy_config_publication",
    "1 for the state of the published configuration: `published`, `missing`, `altered`, `outdated` or `ahead` (of the "
    "database)",
    "state",
)
STREAM_ENTRIES = _declare(
    GaugeMetricFamily,
    "runqy_stream_entries",
    "records of `audit`, `deliveries`, `history` (ended runs of all configured queues) and `ends` (of their tasks that "
    "[webhooks](../how-to/webhooks.md) and [batches](../how-to/batches.md) are told of) that are not in the database "
    "yet",
    "stream",
)
ENDS_WAITING = _declare(
    GaugeMetricFamily,
    "runqy_ends_waiting",
    "entries of `ends` by queue. From 10,000 on results are left out; at 1,000,000 no task is enqueued that tells its "
    "end",
    "queue",
)
WEBHOOK_DELIVERIES = _declare(
    GaugeMetricFamily,
    "runqy_webhook_deliveries",
    "messages to webhooks that are not accepted yet: `due` now; `waiting` to be sent again or for a disabled endpoint, "
    "or in flight",
    "state",
)
WEBHOOK_OLDEST_DUE = _declare(
    GaugeMetricFamily,
    "runqy_webhook_oldest_due_seconds",
    "for how long the message that is due for longest has been due; 0: none is",
)
WEBHOOK_DROPPED = _declare(
    GaugeMetricFamily,
    "runqy_webhook_dropped_messages",
    "messages to endpoints that the server disabled which were dropped, as too many or too old, until they are enabled",
)
WEBHOOK_ATTEMPTS = _declare(
    CounterMetricFamily,
    "runqy_webhook_attempts_total",
    "attempts to send messages to webhooks, Slack and by e-mail: `accepted`, `failed`",
    "outcome",
)
SCHEDULE_LAG = _declare(
    GaugeMetricFamily,
    "runqy_schedule_lag_seconds",
    "for how long the schedule that is due for longest has been waiting for its task; 0: none is due",
)
STREAM_LAG = _declare(
    GaugeMetricFamily,
    "runqy_stream_lag_seconds",
    "age of the oldest record of the stream that is not in the database yet",
    "stream",
)
BUILD_INFO = _declare(GaugeMetricFamily, "runqy_build_info", "1 for the version of the server", "version")
