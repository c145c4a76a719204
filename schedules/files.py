"""The key `schedules` of queue files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from django.utils import timezone

from queues.catalog import QueueCatalog
from queues.file_sections import AppliedItem, ApplyOutcome, Located
from queues.queue_files import write_yaml
from runqy.broker.tasks.enqueue import NewTask
from runqy.errors import RequestInvalid, RunqyError
from runqy.redis_connection import get_broker
from schedules.definition_serializers import ScheduleDefinitionSerializer, parse_schedule
from schedules.models import Schedule, ScheduleSource
from schedules.operations import check_due, check_schedule, delete_schedule, save_schedule
from schedules.specs import ScheduleSpec

_Parsed = tuple[ScheduleSpec, NewTask]


class ScheduleSection:
    """Schedules, by name, with the fields of the API."""

    key = "schedules"

    def parse(self, name: object, data: object) -> _Parsed:
        if not isinstance(data, dict):
            raise RequestInvalid("Must be a mapping with the fields of a schedule.")
        return parse_schedule(data, name=str(name))

    def check(self, found: Located, catalog: QueueCatalog) -> Iterator[tuple[str, RunqyError]]:
        for name, ((spec, requested), _, _) in found.items():
            try:
                check_schedule(get_broker(), requested=requested, resolved=catalog.resolve(spec.queue))
            except RunqyError as error:
                yield name, error

    def warn(self, found: Located) -> Iterator[tuple[str, RunqyError]]:
        # Not an error: files that loaded while their schedules ran must load into a new database as well.
        now = timezone.now()  # nothing else here needs Redis, if all is unchanged
        for name, ((spec, _), _, _) in found.items():
            try:
                check_due(spec, now)
            except RequestInvalid as error:
                yield name, error

    def compare(self, found: Located, *, prune: bool) -> Iterator[AppliedItem]:
        stored = _find_stored(found)
        for name, ((spec, _), _, _) in sorted(found.items()):
            row = stored.get(name)
            if row is None:
                yield AppliedItem(name=name, outcome=ApplyOutcome.ADDED, after=_text(spec))
                continue
            before, outcome = row.as_spec(), _compare(row, spec)
            yield AppliedItem(name=name, outcome=outcome, source=row.source, before=_text(before), after=_text(spec))
        for row in _find_missing(found, ScheduleSource.APPLIED) if prune else ():
            outcome, before = ApplyOutcome.REMOVED, row.as_spec()
            yield AppliedItem(name=row.name, outcome=outcome, source=row.source, before=_text(before))

    def load(self, found: Located, *, is_applied: bool, prune: bool) -> Iterator[tuple[str, ApplyOutcome | RunqyError]]:
        source = ScheduleSource.APPLIED if is_applied else ScheduleSource.FILE
        stored = _find_stored(found)
        for name, ((spec, requested), file, _) in found.items():
            path = "" if is_applied else str(Path(file).absolute())
            row = stored.get(name)
            outcome = _compare(row, spec)
            if row is not None and outcome is ApplyOutcome.UNCHANGED and (row.source, row.file_path) == (source, path):
                yield name, outcome  # it keeps its due times
                continue
            try:
                save_schedule(get_broker(), spec=spec, requested=requested, source=source, file_path=path)
            except RunqyError as error:
                yield name, error
            else:
                yield name, outcome
        for row in _find_missing(found, source):
            if prune:
                delete_schedule(name=row.name)
            yield row.name, ApplyOutcome.REMOVED if prune else ApplyOutcome.KEPT


def _compare(row: Schedule | None, spec: ScheduleSpec) -> ApplyOutcome:
    if row is None:
        return ApplyOutcome.ADDED
    return ApplyOutcome.UNCHANGED if row.as_spec() == spec else ApplyOutcome.UPDATED


def _find_stored(found: Located) -> dict[str, Schedule]:
    return {row.name: row for row in Schedule.objects.filter(name__in=list(found))}


def _find_missing(found: Located, source: ScheduleSource) -> Iterable[Schedule]:
    """Return the schedules that were loaded so before, and that no file names now."""
    return Schedule.objects.filter(source=source).exclude(name__in=list(found)).order_by("name")


def _text(spec: ScheduleSpec) -> str:
    """Return a schedule as in a queue file, without fields that have their default."""
    defaults = ScheduleDefinitionSerializer(ScheduleSpec(name=spec.name, queue="", payload="{}")).data
    values = ScheduleDefinitionSerializer(spec).data
    definition = {field: value for field, value in values.items() if value != defaults[field]}
    return write_yaml({"schedules": {spec.name: definition}}).decode()
