"""Delete rows that are no longer kept. Each app registers what, and one duty deletes all of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Model, QuerySet

from runqy import clock
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.failed_rows import RowFailures

ROWS_AT_ONCE = 1000
KIND_MAX_S = 5.0
"""How long a tick continues with rows of one kind while there are more: another kind waits no longer for its turn."""

_Find = Callable[[], QuerySet[Any]]
_Delete = Callable[[QuerySet[Any]], object]
_registered: list[tuple[type[Model], _Find, _Delete]] = []
_failures = RowFailures("retention")

M = TypeVar("M", bound=Model)


def register_retention(model: type[Model], find: _Find, delete: _Delete = QuerySet.delete) -> None:
    """Register which rows of a model are not kept.

    `find` returns them, and is called again for each ROWS_AT_ONCE of them. `delete` deletes some, in a transaction; of
    these only the primary key is read: a column that cannot be read must not keep a row. A `find` that takes a page of
    rows applies `exclude_paused` to them first.
    """
    _registered.append((model, find, delete))


def exclude_paused(rows: QuerySet[M]) -> QuerySet[M]:
    """Leave out rows whose deletion raised not long ago."""
    return _failures.exclude_paused(rows, prefix=_to_key(rows.model, ""))


@register
class RetentionRunner(DatabaseDuty):
    """Delete what is no longer kept, except the history, which has a duty of its own."""

    name = "retention"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        _failures.begin_pass()
        for model, find, delete in _registered:
            with _failures.isolate(model.__name__, name=f"old rows of {model.__name__}"):
                _delete_all(model, find, delete)


def _delete_all(model: type[Model], find: _Find, delete: _Delete) -> None:
    until_s = clock.monotonic_s() + KIND_MAX_S

    def delete_rows(keys: Sequence[Any]) -> None:
        with transaction.atomic():
            delete(model._default_manager.filter(pk__in=keys).only("pk"))

    while keys := list(exclude_paused(find()).values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        _failures.handle(keys, delete_rows, describe=lambda key: (_to_key(model, key),) * 2 + ("",))
        if len(keys) < ROWS_AT_ONCE or clock.monotonic_s() >= until_s:
            break


def _to_key(model: type[Model], pk: object) -> str:
    return f"{model.__name__} {pk}"
