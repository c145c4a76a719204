"""Create, change, pause, trigger and delete schedules. A change never fires for the past."""

from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from django.db import IntegrityError, transaction

from queues.catalog import AllowedQueues, ResolvedQueue
from queues.queries import get_fresh_catalog, hides_payloads, resolve_queue
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import Changes, diff, record
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import NewTask
from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import ObjectLimitReached, PayloadInvalid, RequestInvalid, ScheduleAlreadyExists, ScheduleNameTaken
from runqy.maintenance.wakeups import wake_duty
from schedules.models import Fire, Schedule, ScheduleSource, failures
from schedules.planning import make_fire, plan_trigger
from schedules.queries import filter_schedules, find_target, get_schedule
from schedules.specs import ScheduleSpec
from tasks.operations import build_task

MAX_SCHEDULES_BY_KEY, MAX_SCHEDULES_BY_QUEUE = 1000, 10_000
"""How many may exist, apart from those of queue files of the server."""
_TIMING = ("cron", "every_s", "time_zone", "jitter_s", "starts_at", "ends_at")
_AUDIT_KIND = "schedule"
_COLUMNS = tuple(field.name for field in fields(ScheduleSpec))
_SAVED = ("parent_queue", "source", "file_path", "next_due_at", "wake_at", "problem")


def save_schedule(  # noqa: PLR0913 (each is a fact about the change)
    broker: Broker,
    *,
    spec: ScheduleSpec,
    requested: NewTask,
    source: ScheduleSource,
    allowed_queues: AllowedQueues = None,
    file_path: str = "",
    is_new: bool = False,
    precondition: Precondition = accept_any,
) -> tuple[Schedule, bool]:
    """Create a schedule, or replace the definition of one. Return it, and whether it is new. Recorded in the audit.

    `requested` is the task of the specification. A schedule that exists keeps its fires, and whether it is paused; if
    its times change, the next one is after now. Raise QueueNotFound, PayloadInvalid, PayloadTooLarge, RequestInvalid,
    ScheduleAlreadyExists with `is_new`, ScheduleNameTaken if it is of a queue that is not allowed,
    ObjectLimitReached, PreconditionFailed.
    """
    now, resolved = broker.now(), resolve_queue(spec.queue, allowed_queues=allowed_queues)
    check_schedule(broker, requested=requested, resolved=resolved)
    with transaction.atomic():
        row = Schedule.objects.select_for_update().filter(name=spec.name).first()
        if row is None:
            precondition(None)
            if source is not ScheduleSource.FILE:
                _check_limits(resolved.queue.name)
            row, before = Schedule(created_at=now), None
            row.set_creator(current_actor())
        elif not filter_schedules(allowed_queues=allowed_queues).filter(pk=row.pk).exists():
            raise ScheduleNameTaken  # the same, however it is saved, and nothing about the other one
        elif is_new:
            raise ScheduleAlreadyExists
        else:
            precondition(row.version)
            before = _describe(row)
        has_new_times = before is None or is_retimed(row, spec)
        # A queue file outlives its schedules: it may be loaded into a new database.
        if has_new_times and source in (ScheduleSource.API, ScheduleSource.ADMIN):
            check_due(spec, now)
        _define(row, spec, parent_queue=resolved.queue.name, now=now, is_retimed=has_new_times)
        row.source, row.file_path, row.wake_at = source, file_path, now
        try:
            with transaction.atomic():
                row.save(update_fields=None if before is None else [*_COLUMNS, *_SAVED])
        except IntegrityError:  # another request has just created it
            raise ScheduleAlreadyExists from None
        changes = _diff(before or {}, _describe(row), row)
        if changes:
            _record("created" if before is None else "changed", row, changes)
    wake_duty("schedules")
    failures.forget(row.pk)  # the change may have mended it
    return row, before is None


def _check_limits(queue: str) -> None:
    """Raise ObjectLimitReached if the queue, or the key that makes the request, has all its schedules."""
    actor, of_queue = current_actor(), Schedule.objects.filter(parent_queue=queue)
    if of_queue.count() >= (limit := MAX_SCHEDULES_BY_QUEUE):
        raise ObjectLimitReached(f"The queue {queue} has {limit:,} schedules, the most that a queue may have.")
    of_key = Schedule.objects.filter(created_by__kind=actor.kind.value, created_by__id=actor.id)
    if actor.kind is ActorKind.KEY and of_key.count() >= (limit := MAX_SCHEDULES_BY_KEY):
        raise ObjectLimitReached(f"This key has created {limit:,} schedules, the most that a key may create.")


def check_schedule(broker: Broker, *, requested: NewTask, resolved: ResolvedQueue) -> None:
    """Raise PayloadInvalid, PayloadTooLarge or RequestInvalid if its queue would not accept a schedule's task."""
    try:
        build_task(requested, resolved, task_id="", now_ns=broker.now_ns(), headers={})
    except PayloadInvalid as error:
        raise PayloadInvalid(errors=[_of_payload(message) for message in error.errors]) from None


def check_due(spec: ScheduleSpec, now: datetime) -> None:
    """Raise RequestInvalid if a schedule would never be due."""
    if spec.timing(now).next_after(now) is not None:
        return
    is_past = spec.ends_at is not None and spec.ends_at <= now
    reason = "Is in the past, so it would never be due." if is_past else "It would never be due until then."
    raise RequestInvalid(errors=[f"ends_at: {reason}"])


def is_retimed(row: Schedule, spec: ScheduleSpec) -> bool:
    """Return whether a specification has other due times than a stored schedule."""
    before = row.as_spec()
    return any(getattr(before, name) != getattr(spec, name) for name in _TIMING)


def pause_schedule(broker: Broker, *, name: str, reason: str, allowed_queues: AllowedQueues = None) -> Schedule:
    """Pause a schedule: nothing is enqueued until it is unpaused, and nothing for the time in between.

    Recorded in the audit. Raise ScheduleNotFound.
    """
    with transaction.atomic():
        row = _lock(name, allowed_queues)
        changes = diff({"reason": row.paused_reason or None}, {"reason": reason or None})
        if row.is_paused and not changes:
            return row
        row.is_paused, row.paused_reason, row.next_due_at, row.wake_at = True, reason, None, broker.now()
        row.save(update_fields=["is_paused", "paused_reason", "next_due_at", "wake_at"])
        wake_duty("schedules")
        _record("paused", row, changes)
    return row


def unpause_schedule(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> Schedule:
    """Let a schedule fire again, next at its first due time from now on. Recorded in the audit.

    Raise ScheduleNotFound.
    """
    with transaction.atomic():
        row, now = _lock(name, allowed_queues), broker.now()
        if not row.is_paused:
            return row
        row.is_paused, row.paused_reason, row.wake_at = False, "", now
        row.next_due_at = row.timing.next_after(now)
        row.save(update_fields=["is_paused", "paused_reason", "next_due_at", "wake_at"])
        wake_duty("schedules")
        _record("unpaused", row)
    return row


def trigger_schedule(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> Fire:
    """Fire a schedule now, also while it is paused or its previous task runs. Recorded in the audit.

    Maintenance enqueues the task. Raise ScheduleNotFound.
    """
    catalog = get_fresh_catalog()
    with transaction.atomic():
        row, now = _lock(name, allowed_queues), broker.now()
        row.fire_count, row.wake_at = row.fire_count + 1, now
        row.save(update_fields=["fire_count", "wake_at"])
        wake_duty("schedules")
        resolved = find_target(row, catalog)
        fire = make_fire(row, plan_trigger(row, now), resolved.redis_queue if resolved else "", now)
        fire.is_triggered = True
        fire.save()
        _record("triggered", row, {"task": (None, fire.task_id)})
    return fire


def delete_schedule(
    *, name: str, allowed_queues: AllowedQueues = None, precondition: Precondition = accept_any
) -> None:
    """Delete a schedule and its fires; their tasks stay. Recorded in the audit.

    Raise ScheduleNotFound, PreconditionFailed.
    """
    with transaction.atomic():
        row = _lock(name, allowed_queues)
        precondition(row.version)
        changes = _diff(_describe(row), {}, row)
        row.delete()
        _record("deleted", row, changes)


def _of_payload(message: str) -> str:
    """Return an error of a payload as one of the schedule's field `payload`."""
    name, separator, text = message.partition(": ")
    return f"payload.{message}" if separator and name != "data" else f"payload: {text or message}"


def _lock(name: str, allowed_queues: AllowedQueues) -> Schedule:
    row = get_schedule(name, allowed_queues=allowed_queues)
    return Schedule.objects.select_for_update().get(pk=row.pk)


def _define(row: Schedule, spec: ScheduleSpec, *, parent_queue: str, now: datetime, is_retimed: bool) -> None:
    for name in _COLUMNS:
        setattr(row, name, getattr(spec, name))
    row.parent_queue = parent_queue
    if is_retimed and not row.is_paused:
        row.next_due_at, row.problem = row.timing.next_after(now), ""


def _describe(row: Schedule) -> dict[str, Any]:
    """Return the definition as it is recorded."""
    return {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(row.as_spec()).items()
        if name != "name" and value not in ("", {}, None, 0)
    }


def _diff(before: dict[str, Any], after: dict[str, Any], row: Schedule) -> Changes:
    # Audit records cannot be deleted.
    secrets = {"payload"} if hides_payloads(row.parent_queue, get_fresh_catalog()) else set()
    return diff(before, after, secrets=secrets)


def _record(verb: str, row: Schedule, changes: Changes | None = None) -> None:
    record(action=f"schedule.{verb}", object_kind=_AUDIT_KIND, object_name=row.name, changes=changes)
