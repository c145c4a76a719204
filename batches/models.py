"""Batches and their members."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from runqy.core.formats.names import QUEUE_NAME_MAX_LENGTH

NAME_MAX_LENGTH = 255
REASON_MAX_LENGTH = 300
OWNER_MAX_LENGTH = 64


class MemberState(models.TextChoices):
    """What became of a member. All but the first two have ended; only one of these is a success."""

    WAITING = "waiting"
    """Its task is not enqueued yet."""
    ENQUEUED = "enqueued"
    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELED = "canceled", "cancelled"
    DELETED = "deleted"
    EXPIRED = "expired"
    LOST = "lost"
    """Its task is gone, and its end was never told."""
    REFUSED = "refused"
    """Its task could not be enqueued, and another try would fail in the same way."""
    UNKNOWN = "unknown"
    """It was interrupted for so long that nobody can tell whether its task was enqueued."""


OPEN_STATES = (MemberState.WAITING, MemberState.ENQUEUED)


class Condition(models.TextChoices):
    """When the callback is enqueued. Each includes that the batch is closed."""

    ENDED = "ended"
    """All members have ended."""
    SUCCEEDED = "succeeded"
    """All are completed, also after some were run again."""
    FAILED = "failed"
    """All have ended, and one is not completed."""


class CallbackState(models.TextChoices):
    """What became of the callback."""

    NONE = "none"
    """The batch has none."""
    PLANNED = "planned"
    """Its condition has not been met."""
    WAITING = "waiting"
    """It is being enqueued, or cannot be now."""
    ENQUEUED = "enqueued"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def make_batch_id() -> str:
    return str(uuid.uuid4())


class Batch(models.Model):
    """Tasks that have a callback together. Its row is locked by whatever changes the state of a member."""

    id = models.CharField(primary_key=True, max_length=36, default=make_batch_id, editable=False)
    name = models.CharField(max_length=NAME_MAX_LENGTH, blank=True)
    created_by: Any = models.JSONField()
    """The actor that created it: its key may have been revoked since."""
    owner = models.CharField(max_length=OWNER_MAX_LENGTH, db_default="", editable=False)
    """The key or user that created it (`find_owner`). Owners take turns; their waiting members are limited."""
    created_at = models.DateTimeField()
    added_at = models.DateTimeField(null=True)
    """When members were added last; null: when it was created."""
    queues: Any = models.JSONField(default=list)
    """The names of the queues of its members and its callback: a key that is limited to queues must be allowed all."""
    is_closed = models.BooleanField(default=False)
    """Nothing more is added."""
    is_abandoned = models.BooleanField(db_default=False, editable=False)
    """The server closed it, because nothing was added for long."""
    is_canceled = models.BooleanField(default=False)
    counts: Any = models.JSONField(default=dict)
    """How many members are in each MemberState that has any."""
    ended_at = models.DateTimeField(null=True)
    """When all members had ended and it was closed, for the first time."""

    on = models.CharField(max_length=9, choices=Condition.choices, default=Condition.ENDED)
    callback_state = models.CharField(max_length=8, choices=CallbackState.choices, default=CallbackState.NONE)
    callback_request = models.BinaryField(null=True)
    """The requested task (`NewTask`), until it is enqueued."""
    callback_queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH, blank=True)
    """Its Redis queue."""
    callback_task_id = models.CharField(max_length=36, blank=True)
    callback_requested_s = models.BigIntegerField(default=0)
    """Redis's time (Unix s) at which its condition was met."""
    callback_reason = models.CharField(max_length=REASON_MAX_LENGTH, blank=True)
    """Why it waits or was refused."""

    has_problem = models.BooleanField(default=False)
    """Members or the callback are unknown, or the callback was refused: nobody else would notice."""
    busy_until = models.DateTimeField(null=True)
    """A maintenance process enqueues or cancels its members until then. Claimed by compare-and-set."""
    canceled_through = models.BigIntegerField(default=0)
    """The last member whose task was cancelled, of a batch that is."""
    checked_through = models.BigIntegerField(default=0)
    """The last member whose task was looked for."""

    class Meta:
        default_permissions = ("view",)
        verbose_name_plural = "batches"
        ordering = ["-created_at", "id"]
        indexes = [
            models.Index(fields=["-created_at", "id"], name="batch_by_age"),
            models.Index(fields=["owner", "busy_until"], condition=Q(busy_until__isnull=False), name="batch_by_turn"),
            models.Index(fields=["created_at"], condition=Q(is_closed=False), name="batch_open"),
            models.Index(fields=["created_at"], condition=Q(is_abandoned=True), name="batch_abandoned"),
            models.Index(
                fields=["owner", "created_at"], condition=Q(callback_state="waiting"), name="batch_calling_back"
            ),
            models.Index(fields=["ended_at"], name="batch_by_end"),
            models.Index(fields=["created_at"], condition=Q(has_problem=True), name="batch_with_problem"),
        ]

    def __str__(self) -> str:
        return self.name or self.id

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def open_count(self) -> int:
        """How many members have not ended."""
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)

    @property
    def is_ended(self) -> bool:
        return self.is_closed and not self.open_count

    @property
    def completed_count(self) -> int:
        return int(self.counts.get(MemberState.COMPLETED, 0))


class Member(models.Model):
    """A task of a batch. Its row is committed before the task is enqueued."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="members")
    task_id = models.CharField(max_length=36)
    redis_queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH)
    state = models.CharField(max_length=9, choices=MemberState.choices, default=MemberState.WAITING)
    request = models.BinaryField(null=True)
    """The requested task (`NewTask`), until it is enqueued."""
    requested_s = models.BigIntegerField()
    """Redis's time (Unix s) before the first attempt to enqueue it that may have succeeded; 0: there was none."""
    reason = models.CharField(max_length=REASON_MAX_LENGTH, blank=True)
    """Why it waits, was refused, or failed."""
    end_position = models.CharField(max_length=41, blank=True)
    """Ends up to this position of the stream are known (`CollectedEnd.position`)."""

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["batch", "task_id"], name="member_once")]
        indexes = [
            models.Index(fields=["batch", "id"], name="member_by_number"),
            models.Index(fields=["batch", "state", "id"], name="member_by_state"),
        ]

    def __str__(self) -> str:
        return self.task_id


class WaitingMembers(models.Model):
    """How many members of a batch wait for a Redis queue, and how much they and its callback take in the database.

    Changes with the states of members, under the lock of the batch, so that limits need not count the members.
    """

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="waiting")
    redis_queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH, db_index=True)
    owner = models.CharField(max_length=OWNER_MAX_LENGTH, db_index=True)
    """That of the batch."""
    count = models.BigIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["batch", "redis_queue"], name="waiting_once")]

    def __str__(self) -> str:
        return f"{self.count} for {self.redis_queue}"


class BatchRequest(models.Model):
    """A request with an Idempotency-Key that created a batch or added to one, and its response."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="requests")
    scope = models.CharField(max_length=64, unique=True)
    fingerprint = models.CharField(max_length=64)
    response: Any = models.JSONField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.scope
