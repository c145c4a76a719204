"""How an archived task ended, where only Redis has it: as released workers leave it, and before it is recorded."""

from importlib import import_module
from typing import Any

import pytest

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.archive_reasons import (
    DEADLINE_EXCEEDED,
    LEASE_EXPIRED,
    ErrorClass,
    find_archive_outcome,
    pending_timeout_error,
    timeout_error,
)
from runqy.broker.tasks.record import TaskRecord

NOW_S = 1_700_000_000
MESSAGE = TaskMessage(timeout=60, deadline=NOW_S - 10, last_failed_at=NOW_S)


def archived(error: str, **fields: Any) -> TaskRecord:
    """Return a task that a worker has archived now."""
    given = {"state": TaskState.ARCHIVED, "message": MESSAGE, "archived_field_s": NOW_S, "score_s": NOW_S + 3600}
    return TaskRecord(id="t1", queue="mail", error=error, ttl_archived_s=3600, **given | fields)


@pytest.mark.parametrize(
    ("error", "started_s", "outcome"),
    [
        ("ValueError: no", NOW_S - 20, RunOutcome.FAILED),
        ("timed out after 61 s", NOW_S - 20, RunOutcome.FAILED),
        (timeout_error(MESSAGE.timeout), NOW_S - 20, RunOutcome.TIMED_OUT),
        (DEADLINE_EXCEEDED, NOW_S - 20, RunOutcome.TIMED_OUT),
        (DEADLINE_EXCEEDED, NOW_S - 5, RunOutcome.EXPIRED),
        (DEADLINE_EXCEEDED, None, RunOutcome.EXPIRED),
        (pending_timeout_error(5), None, RunOutcome.EXPIRED),
        (LEASE_EXPIRED, NOW_S - 20, RunOutcome.LOST),
        ("task lease expired", NOW_S - 20, RunOutcome.LOST),
        ("canceled", NOW_S - 20, RunOutcome.FAILED),
        ("", None, None),
    ],
)
def test_the_error_stands_for_an_outcome(error: str, started_s: int | None, outcome: RunOutcome | None) -> None:
    record = archived(error, started_at_ns=None if started_s is None else started_s * 10**9)

    assert find_archive_outcome(record, now_s=NOW_S) is outcome


@pytest.mark.parametrize("path", ErrorClass)
def test_the_class_of_an_error_is_one_of_the_sdk(path: ErrorClass) -> None:
    module, _, name = path.rpartition(".")

    assert issubclass(getattr(import_module(module), name), Exception)


def test_a_cancelled_task_was_not_archived_by_its_error() -> None:
    record = archived("ValueError: no", cancel_requested_at_ns=NOW_S * 10**9)

    assert find_archive_outcome(record, now_s=NOW_S) is RunOutcome.CANCELED


@pytest.mark.parametrize(
    "fields", [{"state": TaskState.RETRY}, {"archived_field_s": NOW_S + 5, "score_s": NOW_S + 3605}]
)
def test_the_error_of_an_earlier_attempt_is_no_reason(fields: dict[str, Any]) -> None:
    assert find_archive_outcome(archived("ValueError: no", **fields), now_s=NOW_S + 9) is None


def test_the_expiry_that_gos_worker_stores_is_no_time_of_archiving() -> None:
    record = archived("no", message=TaskMessage(), archived_field_s=None)

    assert find_archive_outcome(record, now_s=NOW_S) is RunOutcome.FAILED
