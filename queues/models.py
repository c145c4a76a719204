"""The rows of queues and their sub-queues."""

from collections.abc import Iterable

from django.db import models

from queues.definitions import (
    Deployment,
    QueueMode,
    QueueOrder,
    QueueSpec,
    StatedLimits,
)
from queues.definitions import SubQueue as SubQueueSpec
from queues.written import parse_fields, write_fields


class Source(models.TextChoices):
    """Where a queue was defined first or last."""

    FILE = "file", "queue file"
    ADMIN = "admin", "admin"
    API = "api", "API"


class Queue(models.Model):
    """A queue: what its workers deploy and what bounds its tasks."""

    name = models.CharField(max_length=128, unique=True)
    is_enabled = models.BooleanField(default=True, help_text="A disabled queue takes no tasks; its workers idle.")
    priority = models.PositiveIntegerField(default=1, help_text="With sub-queues theirs count.")
    mode = models.CharField(
        max_length=16, choices=[(mode.value, mode.value) for mode in QueueMode], default=QueueMode.LONG_RUNNING.value
    )
    order = models.CharField(
        max_length=16, choices=[(order.value, order.value) for order in QueueOrder], default=QueueOrder.WEIGHTED.value
    )
    git_url = models.CharField(max_length=2000)
    branch = models.CharField(max_length=250, default="main")
    code_path = models.CharField(max_length=1000, blank=True)
    startup_cmd = models.CharField(max_length=4000)
    startup_timeout_s = models.PositiveIntegerField(default=60)
    requirements_file = models.CharField(max_length=1000, blank=True, default="requirements.txt")
    env_vars = models.JSONField(default=dict, blank=True)
    redis_storage = models.BooleanField(default=True, help_text="Keep results; off keeps only the end state.")
    vaults = models.JSONField(default=list, blank=True, help_text="Names in order: a later one overrides.")
    git_token = models.CharField(max_length=400, blank=True, help_text="vault://<vault>/<key>")
    max_retry = models.PositiveIntegerField(null=True, blank=True)
    ttl_completed_s = models.PositiveBigIntegerField(null=True, blank=True)
    ttl_archived_s = models.PositiveBigIntegerField(null=True, blank=True)
    pending_timeout_s = models.PositiveBigIntegerField(null=True, blank=True)
    active_timeout_s = models.PositiveBigIntegerField(null=True, blank=True)
    retry_delay_s = models.PositiveBigIntegerField(null=True, blank=True)
    retry_max_delay_s = models.PositiveBigIntegerField(null=True, blank=True)
    max_waiting_tasks = models.PositiveIntegerField(null=True, blank=True)
    input = models.JSONField(default=list, blank=True)
    output = models.JSONField(default=list, blank=True)
    source = models.CharField(max_length=8, choices=Source.choices, default=Source.ADMIN, editable=False)
    file_digest = models.CharField(max_length=64, blank=True, editable=False)
    """What the files said when they were loaded last; differs from `spec_digest` of the row if it was edited since."""
    file_path = models.CharField(max_length=4096, blank=True, editable=False)
    """Where the queue stood when it was loaded last."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        permissions = [("pause_queue", "Can pause and resume queues")]

    def __str__(self) -> str:
        """Name the queue."""
        return self.name

    def as_spec(self, sub_queues: Iterable["SubQueue"] | None = None) -> QueueSpec:
        """Return the row as a specification, with its own sub-queues or others."""
        subs = tuple(
            SubQueueSpec(name=sub.name, priority=sub.priority)
            for sub in (self.sub_queues.all() if sub_queues is None else sub_queues)
        )
        return QueueSpec(
            name=self.name,
            is_enabled=self.is_enabled,
            priority=max((sub.priority for sub in subs), default=self.priority),
            mode=QueueMode(self.mode),
            order=QueueOrder(self.order),
            sub_queues=subs,
            deployment=self._deployment(),
            limits=StatedLimits(**{name: getattr(self, name) for name in LIMITS}),
            input=parse_fields(self.input),
            output=parse_fields(self.output),
        )

    def take_from(self, spec: QueueSpec) -> None:
        """Set the columns to what a specification says, except whether the queue is enabled."""
        self.name, self.priority, self.mode, self.order = spec.name, spec.priority, spec.mode, spec.order
        for name in DEPLOYMENT:
            setattr(self, name, getattr(spec.deployment, name))
        for name in LIMITS:
            setattr(self, name, getattr(spec.limits, name))
        self.env_vars, self.vaults = dict(spec.deployment.env_vars), list(spec.deployment.vaults)
        self.input = write_fields(spec.input)
        self.output = write_fields(spec.output)

    def _deployment(self) -> Deployment:
        """Return what workers deploy."""
        columns = {name: getattr(self, name) for name in DEPLOYMENT}
        return Deployment(**columns | {"vaults": tuple(self.vaults), "env_vars": dict(self.env_vars)})


class SubQueue(models.Model):
    """A line of its own within a queue."""

    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, related_name="sub_queues")
    name = models.CharField(max_length=127)
    priority = models.PositiveIntegerField(default=1)
    position = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["position", "id"]
        constraints = [models.UniqueConstraint(fields=["queue", "name"], name="one_sub_queue_for_each_name")]

    def __str__(self) -> str:
        """Name the sub-queue within its queue."""
        return self.name


class QueueRemoval(models.Model):
    """A removal under way, written before anything is gone: what a process leaves undone, maintenance finishes."""

    queue = models.CharField(max_length=128)
    sub_queue = models.CharField(max_length=127, blank=True)
    redis_queues = models.JSONField()
    is_whole = models.BooleanField()
    """The queue's definition goes too, not only some of its Redis queues."""
    is_forced = models.BooleanField(default=False)
    """Tasks that wait or run go too."""
    before = models.TextField(blank=True)
    """The specification to return to if tasks came in last; empty: they keep the removal waiting."""
    is_decided = models.BooleanField(default=False)
    """There is no way back: only Redis has to be emptied."""
    actor = models.JSONField()
    """Whoever asked for it, for the record of what maintenance does in their name."""
    claim = models.CharField(max_length=32, blank=True)
    """Of the one process that is at it."""
    claimed_until = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["queue", "sub_queue", "is_whole"], name="one_removal_for_each_queue")
        ]

    def __str__(self) -> str:
        """Name what is removed."""
        return f"{self.queue}.{self.sub_queue}" if self.sub_queue else self.queue


LIMITS = tuple(StatedLimits.__dataclass_fields__)
DEPLOYMENT = tuple(Deployment.__dataclass_fields__)
