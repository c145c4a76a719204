"""The history of runs, bulk actions, and a model of tasks for permissions and URLs. The tasks are in Redis."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from runqy.admin_site.managers import EmptyManager
from runqy.broker.replies import replace_nul
from runqy.broker.states import RunOutcome

ID_MAX_LENGTH = 255
QUEUE_MAX_LENGTH = 255
"""A Redis queue is a queue and a sub-queue, or any name that another producer chose."""


class RedisTextField(models.CharField):  # type: ignore[type-arg]
    """Text that was read from Redis, where any worker of the queue may have written it.

    PostgreSQL refuses NUL in values and in what they are compared with, so it is stored, and looked up, as U+FFFD.
    """

    def get_prep_value(self, value: Any) -> Any:
        prepared = super().get_prep_value(value)
        return replace_nul(prepared) if isinstance(prepared, str) else prepared


class Task(models.Model):
    """A task, for permissions and admin URLs; it has no table."""

    id = models.CharField(primary_key=True, max_length=255)

    objects = EmptyManager()

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (
            ("enqueue_task", "Can enqueue tasks"),
            ("run_task", "Can run tasks"),
            ("cancel_task", "Can cancel tasks"),
            ("archive_task", "Can archive tasks"),
            ("delete_task", "Can delete tasks"),
            ("view_payload", "Can view hidden payloads, results and errors"),
        )

    def __str__(self) -> str:
        return self.id


class TaskRun(models.Model):
    """An attempt that ended, or a task that ended without one: cancelled or expired while it waited.

    Rows are only inserted, and deleted when they are old. Texts are excerpts.
    """

    task_id = RedisTextField(max_length=ID_MAX_LENGTH)
    run_id = models.CharField(max_length=64)
    """Unique with the task: an attempt that is reported twice is stored once."""
    queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    """The name of the queue, or the Redis queue if that belongs to no queue."""
    sub_queue = models.CharField(max_length=QUEUE_MAX_LENGTH, blank=True)
    redis_queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    attempt = models.PositiveIntegerField()
    """1, 2, 3 …; 0 if the task ended without an attempt."""
    outcome = models.CharField(max_length=16, choices=[(outcome.value, outcome.value) for outcome in RunOutcome])
    is_final = models.BooleanField()
    """The task ended with this run; False: it runs again."""
    is_foreign = models.BooleanField(default=False)
    """Read from the state in which a worker of another program (asynq, Go's runqy-worker) left the task."""
    worker_id = models.CharField(max_length=ID_MAX_LENGTH, blank=True)
    commit = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=200, blank=True)
    """The id of the request that enqueued the task."""
    enqueued_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    """None: the task never ran, or the time is unknown."""
    ended_at = models.DateTimeField()
    wait_ms = models.BigIntegerField(null=True)
    """From when the task was due until the attempt started, or the task ended without one; None if it was not due."""
    run_ms = models.BigIntegerField(null=True)
    error_class = models.CharField(max_length=200, blank=True)
    error_message = models.TextField(blank=True)
    fingerprint = models.CharField(max_length=32, null=True)
    """The same for errors that differ only in numbers, ids, quoted texts, URLs and paths; None: no error."""
    payload = models.TextField(blank=True)
    result = models.TextField(blank=True)
    traceback = models.TextField(blank=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [models.UniqueConstraint(fields=["task_id", "run_id"], name="run_once")]
        indexes = [
            models.Index(fields=["ended_at", "id"], name="run_by_time"),
            models.Index(fields=["queue", "ended_at", "id"], name="run_by_queue"),
            models.Index(fields=["outcome", "ended_at", "id"], name="run_by_outcome"),
            models.Index(fields=["queue", "outcome", "ended_at", "id"], name="run_by_queue_outcome"),
            models.Index(fields=["worker_id", "ended_at", "id"], name="run_by_worker"),
            models.Index(fields=["commit", "ended_at", "id"], name="run_by_commit"),
            models.Index(
                fields=["fingerprint", "ended_at", "id"], condition=Q(fingerprint__isnull=False), name="run_by_error"
            ),
            models.Index(  # groups of errors are counted from this index and the next alone, without the rows
                fields=["ended_at", "id", "queue", "fingerprint"],
                condition=Q(fingerprint__isnull=False),
                name="run_by_failure",
            ),
            models.Index(
                fields=["queue", "ended_at", "id", "fingerprint"],
                condition=Q(fingerprint__isnull=False),
                name="run_by_queue_failure",
            ),
            models.Index(fields=["run_ms", "id"], condition=Q(run_ms__isnull=False), name="run_by_duration"),
            models.Index(
                fields=["queue", "run_ms", "id"], condition=Q(run_ms__isnull=False), name="run_by_queue_duration"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_id} attempt {self.attempt}: {self.outcome}"

    @property
    def exception_line(self) -> str:
        """Return the error as it is in the last line of a traceback."""
        return f"{self.error_class}: {self.error_message}" if self.error_class else self.error_message


class QueueRollup(models.Model):
    """Counts of a Redis queue in one interval of UTC time, so that charts need not read runs."""

    redis_queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    start = models.DateTimeField()
    enqueued = models.PositiveBigIntegerField(default=0)
    """Tasks enqueued in the interval, counted when their first attempt ends."""
    started = models.PositiveBigIntegerField(default=0)
    """Attempts started in the interval, counted when they end."""
    completed = models.PositiveBigIntegerField(default=0)
    retried = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    canceled = models.PositiveBigIntegerField(default=0)
    timed_out = models.PositiveBigIntegerField(default=0)
    expired = models.PositiveBigIntegerField(default=0)
    lost = models.PositiveBigIntegerField(default=0)
    first_ended = models.PositiveBigIntegerField(default=0)
    """First attempts that ended, and tasks that ended without any."""
    first_failed = models.PositiveBigIntegerField(default=0)
    tasks_ended = models.PositiveBigIntegerField(default=0)
    """Tasks that ended for good: retries are no ends."""
    tasks_failed = models.PositiveBigIntegerField(default=0)
    dropped = models.PositiveBigIntegerField(default=0)
    """Runs that a full stream lost before they reached the database."""
    wait_sum_ms = models.PositiveBigIntegerField(default=0)
    run_sum_ms = models.PositiveBigIntegerField(default=0)
    wait_histogram: Any = models.JSONField(default=dict)
    """Runs that ended in the interval, by bucket of wait time (`tasks/history/rollups.py`)."""
    run_histogram: Any = models.JSONField(default=dict)
    backlog = models.PositiveBigIntegerField(null=True)
    """Pending tasks at the last sample; None: not sampled."""
    backlog_max = models.PositiveBigIntegerField(null=True)
    oldest_ms = models.PositiveBigIntegerField(null=True)
    """The longest time that the oldest pending task had been waiting at a sample."""

    class Meta:
        abstract = True
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["redis_queue", "start"], name="%(class)s_once")]
        indexes = [
            models.Index(fields=["queue", "start"], name="%(class)s_by_queue"),
            models.Index(fields=["start"], name="%(class)s_by_start"),
        ]

    def __str__(self) -> str:
        return f"{self.redis_queue} {self.start:%Y-%m-%d %H:%M}"


class QueueMinute(QueueRollup):
    """The counts of one minute."""


class QueueHour(QueueRollup):
    """The counts of one hour, written together with those of its minutes."""


class RunStream(models.Model):
    """How far the stream of a Redis queue has been stored. The row is locked while runs of its queue are stored."""

    redis_queue = models.CharField(max_length=QUEUE_MAX_LENGTH, unique=True)
    cursor = models.CharField(max_length=41, default="0-0")
    """The id of the last entry that was stored. It changes in the transaction that stores the runs."""
    recorded = models.PositiveBigIntegerField(default=0)
    invalid = models.PositiveBigIntegerField(default=0)
    """Entries that could not be read."""
    counted_only = models.PositiveBigIntegerField(default=0)
    """Successes above the rate limit, which are only in the rollups."""
    counted_only_cursor = models.CharField(max_length=41, default="0-0")
    """The id of the last of these."""
    dropped = models.PositiveBigIntegerField(default=0)
    """Entries that were lost because the stream was full."""
    dropped_seen = models.PositiveBigIntegerField(default=0)
    """Those of the present stream: a new one begins when Redis loses its data."""
    passed = models.PositiveBigIntegerField(default=0)
    """Entries that the cursor has passed, each counted once."""
    passed_before = models.PositiveBigIntegerField(default=0)
    """Those of earlier streams."""
    dropped_at = models.DateTimeField(null=True)
    rate_second = models.BigIntegerField(default=0)
    rate_count = models.PositiveIntegerField(default=0)
    """Successes stored in full whose entries were appended in the Unix second `rate_second`."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.redis_queue} up to {self.cursor}"


class PrunedRuns(models.Model):
    """The newest end of a queue's deleted runs, so that a run that is seen again is not stored again."""

    queue = models.CharField(max_length=QUEUE_MAX_LENGTH, unique=True, blank=True)
    """Empty: all queues."""
    ended_at = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.queue or 'all queues'} up to {self.ended_at:%Y-%m-%d %H:%M}"


class TaskCopy(models.Model):
    """A task that was enqueued with the payload of another one, the original. The original is not changed."""

    original_queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    original_id = RedisTextField(max_length=ID_MAX_LENGTH)
    copy_queue = models.CharField(max_length=QUEUE_MAX_LENGTH)
    """A Redis queue, like `original_queue`."""
    copy_id = RedisTextField(max_length=ID_MAX_LENGTH)
    is_edited = models.BooleanField(default=False)
    """The payload was changed."""
    bulk_action = models.ForeignKey("BulkAction", null=True, on_delete=models.CASCADE, related_name="copies")
    """The bulk action that enqueued the copy; null: a user did, on the page of the original."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        default_permissions = ()
        indexes = [
            models.Index(fields=["original_id", "id"], name="copy_by_original"),
            models.Index(fields=["copy_id"], name="copy_by_copy"),
            models.Index(fields=["created_at"], name="copy_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.copy_id} of {self.original_id}"


class BulkAction(models.Model):
    """An action on all tasks that match a filter. Maintenance applies it in slices."""

    class State(models.TextChoices):
        """The progress of a bulk action."""

        WAITING = "waiting"
        RUNNING = "running"
        FINISHED = "finished"
        CANCELED = "canceled"
        FAILED = "failed"

    class Outcome(models.TextChoices):
        """What happened to a task."""

        DONE = "done"
        SKIPPED = "skipped"
        """The action no longer applied to the task's state."""
        FAILED = "failed"

    OPEN_STATES = (State.WAITING, State.RUNNING)

    action = models.CharField(max_length=16)
    query = models.TextField()
    """The filter: a `TaskQuery` as JSON."""
    state = models.CharField(max_length=16, choices=State.choices, default=State.WAITING)
    expected = models.PositiveBigIntegerField()
    """The number of tasks that the preview showed."""
    actor: Any = models.JSONField()
    """Who requested it, for the audit."""
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    cursor = models.TextField(blank=True)
    """Where the next slice begins."""
    requested_s = models.BigIntegerField()
    """Redis's time (Unix s) at the request."""
    slice_began_s = models.BigIntegerField(null=True)
    """Redis's time (Unix s) at the start of a slice that has not been finished."""
    copy_namespace = models.UUIDField(default=uuid.uuid4)
    """The id of a copy follows from it and the original, so that nobody can guess the id."""
    newest_run = models.BigIntegerField(default=0)
    """The newest run at the request: tasks that end later do not match."""
    done = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    problems: Any = models.JSONField(default=list)
    """The latest tasks that it was not applied to: `queue`, `id`, `outcome` and `reason`."""
    unknown_at = models.DateTimeField(null=True)
    """When it was last found that a copy may or may not have been enqueued; None: never."""
    full_queue = models.CharField(max_length=QUEUE_MAX_LENGTH, blank=True)
    """The Redis queue that has no room for the next copy, or empty."""
    error = models.TextField(blank=True)
    """Why it failed."""
    lease = models.CharField(max_length=32, blank=True)
    """The token of the process that applies it, or empty."""
    leased_until = models.DateTimeField(null=True)
    """No other process applies it before this time; None: any process may."""

    class Meta:
        default_permissions = ()
        verbose_name = "bulk action"
        indexes = [models.Index(fields=["state", "id"], name="bulk_action_by_state")]

    def __str__(self) -> str:
        return f"bulk action {self.pk}"
