"""Schedules, and their fires."""

import hashlib
from datetime import datetime
from typing import Any

import msgspec
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from runqy.audit.actors import Actor
from runqy.core.formats.names import SCHEDULE_NAME, SCHEDULE_NAME_MAX_LENGTH, SCHEDULE_NAME_RULE
from runqy.maintenance.failed_rows import RowFailures
from schedules.specs import CatchUp, Overlap, ScheduleSpec
from schedules.times import LAST_TIME, MAX_CRON_LENGTH, Timing

REASON_MAX_LENGTH = 300
failures = RowFailures("schedule")


class ScheduleSource(models.TextChoices):
    """Where a schedule was last saved."""

    API = "api", "API"
    ADMIN = "admin", "admin"
    FILE = "file", "file"
    APPLIED = "applied", "queue apply"


class Schedule(models.Model):
    """What is enqueued when. The columns up to `catch_up_window_s` are its definition."""

    name = models.CharField(
        max_length=SCHEDULE_NAME_MAX_LENGTH,
        unique=True,
        validators=[RegexValidator(rf"\A{SCHEDULE_NAME}\Z", SCHEDULE_NAME_RULE)],
    )
    queue = models.CharField(max_length=255)
    payload = models.TextField()
    options: Any = models.JSONField(default=dict)
    cron = models.CharField(max_length=MAX_CRON_LENGTH, blank=True)
    every_s = models.PositiveIntegerField(default=0)
    time_zone = models.CharField(max_length=64, default="UTC")
    jitter_s = models.PositiveIntegerField(default=0)
    starts_at = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(null=True)
    overlap = models.CharField(max_length=8, choices=[(each.value, each.value) for each in Overlap])
    catch_up = models.CharField(max_length=8, choices=[(each.value, each.value) for each in CatchUp])
    catch_up_window_s = models.PositiveIntegerField(null=True)

    parent_queue = models.CharField(max_length=255)
    """The name of the queue that `queue` belonged to when it was saved."""
    source = models.CharField(max_length=8, choices=ScheduleSource.choices)
    file_path = models.CharField(max_length=1024, blank=True)
    is_paused = models.BooleanField(default=False)
    paused_reason = models.CharField(max_length=REASON_MAX_LENGTH, blank=True)
    created_by: Any = models.JSONField()
    """The actor that created it: its key may have been revoked since."""
    created_at = models.DateTimeField()
    """By Redis's clock, as all times here."""
    next_due_at = models.DateTimeField(null=True)
    """The first due time without a fire; None: paused, or there is none any more."""
    wake_at = models.DateTimeField(null=True)
    """When maintenance looks at it again: for the next due time, with its jitter, or for a fire that is not settled.
    Moved by compare-and-set by the process that does so."""
    fire_count = models.PositiveBigIntegerField(default=0)
    problem = models.CharField(max_length=REASON_MAX_LENGTH, blank=True)
    """Why the last fire that was settled enqueued nothing that should have been enqueued; empty if it did."""

    class Meta:
        permissions = (("run_schedule", "Can pause, unpause and trigger schedules"),)
        indexes = [
            models.Index(fields=["wake_at"], condition=Q(wake_at__isnull=False), name="schedule_by_wake"),
            models.Index(fields=["parent_queue", "name"], name="schedule_by_queue"),
            models.Index(fields=["name"], condition=~Q(problem=""), name="schedule_with_problem"),
        ]

    def __str__(self) -> str:
        return self.name

    def as_spec(self) -> ScheduleSpec:
        return ScheduleSpec(
            name=self.name,
            queue=self.queue,
            payload=self.payload,
            options=self.options,
            cron=self.cron,
            every_s=self.every_s,
            time_zone=self.time_zone,
            jitter_s=self.jitter_s,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            overlap=Overlap(self.overlap),
            catch_up=CatchUp(self.catch_up),
            catch_up_window_s=self.catch_up_window_s,
        )

    @property
    def version(self) -> str:
        """A digest of the definition, which is its ETag: whoever edits it does not overwrite another change."""
        return hashlib.sha256(msgspec.json.encode(self.as_spec(), order="sorted")).hexdigest()[:32]

    @property
    def timing(self) -> Timing:
        return Timing.of(self, self.created_at)

    def list_next(self, count: int) -> list[datetime]:
        """Return the next due times; none if its time zone was removed from the IANA database."""
        first = self.next_due_at
        try:
            return [] if first is None or first > LAST_TIME else [first, *self.timing.list_after(first, count - 1)]
        except ValueError:
            return []

    @property
    def creator(self) -> Actor:
        return Actor.from_json(self.created_by)

    def set_creator(self, actor: Actor) -> None:
        self.created_by = msgspec.structs.asdict(actor)


class Fire(models.Model):
    """One due time of a schedule, or a trigger."""

    class State(models.TextChoices):
        """What became of a fire. All but the first are final."""

        WAITING = "waiting"
        """Its task is being enqueued, or cannot be now."""
        ENQUEUED = "enqueued"
        SKIPPED = "skipped"
        """As the schedule says: a task of it had not ended, or `catch_up` is `skip`."""
        MISSED = "missed"
        """It could not be enqueued within the window."""
        REFUSED = "refused"
        """Its payload or its options are not accepted."""
        UNKNOWN = "unknown"
        """Interrupted for so long that nobody can tell whether its task was enqueued."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="fires")
    due_at = models.DateTimeField()
    number = models.PositiveBigIntegerField()
    """Counts the fires of a schedule, the oldest of which are deleted."""
    is_triggered = models.BooleanField(default=False)
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    reason = models.CharField(max_length=REASON_MAX_LENGTH, blank=True)
    missed_since = models.DateTimeField(null=True)
    """The first of the due times that this fire stands for: no maintenance ran then. None: there is only its own."""
    task_id = models.CharField(max_length=36)
    redis_queue = models.CharField(max_length=255)
    """Fixed with the id: the record that it was enqueued is in this queue. Empty: the queue did not exist."""
    requested_s = models.BigIntegerField()
    """Redis's time (Unix s) at this row."""
    fire_at = models.DateTimeField()
    """The due time with its jitter."""
    until = models.DateTimeField()
    """When the window ends: nothing is enqueued later."""
    settled_at = models.DateTimeField(null=True)
    is_unfinished = models.BooleanField(default=False)
    """Its task had not ended when it was last looked at: before another fire that must not overlap it."""

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["schedule", "due_at"], name="fire_once")]
        indexes = [
            models.Index(fields=["schedule", "number"], name="fire_by_number"),
            models.Index(fields=["schedule"], condition=Q(state="waiting"), name="fire_waiting"),
            models.Index(fields=["schedule", "number"], condition=Q(is_unfinished=True), name="fire_unfinished"),
            models.Index(fields=["settled_at"], condition=Q(state="unknown"), name="fire_unknown"),
        ]

    def __str__(self) -> str:
        return f"{self.schedule_id} at {self.due_at:%Y-%m-%d %H:%M:%S}"


FAILED_STATES = (Fire.State.MISSED, Fire.State.REFUSED, Fire.State.UNKNOWN)
"""Fires that enqueued nothing although they should have, as far as is known."""
