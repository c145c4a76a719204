"""The checker of the history detects each kind of error: it gets a history with one error."""

from dataclasses import replace

from tools.soak.attempts import QueueHistory, check_history

ROWS = {"done": "c", "retried": "rc", "failed": "f"}
SUMS = {"completed": 2, "retried": 1, "failed": 1}


def history() -> QueueHistory:
    """Return a history in which nothing is wrong."""
    return QueueHistory(
        queue="q",
        accepted=frozenset({*ROWS, "pending"}),
        waiting=frozenset({"pending"}),
        ended=tuple(ROWS),
        journal=ROWS,
        rows=ROWS,
        minutes=SUMS,
        hours=SUMS,
        charted=SUMS,
        processed=4,
        failed=2,
        metrics={**SUMS, "requeued": 7},
        metrics_processed=4,
    )


def broken(found: QueueHistory) -> set[str]:
    """Return which invariants the checker finds broken."""
    return {violation.invariant for violation in check_history(found).violations}


def with_rows(rows: dict[str, str], **sums: int) -> QueueHistory:
    """Return a history with other rows, and the sums that fit them."""
    fitting = SUMS | sums
    return replace(history(), rows=rows, minutes=fitting, hours=fitting, charted=fitting)


def test_finds_nothing_where_nothing_is_wrong() -> None:
    result = check_history(history())

    assert (result.violations, result.missing.total(), result.lost) == ([], 0, 0)


def test_notices_an_accepted_task_that_neither_ended_nor_waits() -> None:
    assert broken(replace(history(), waiting=frozenset())) == {"lost"}


def test_notices_a_task_that_nobody_was_told_of() -> None:
    assert broken(replace(history(), waiting=frozenset({"pending", "another"}))) == {"created twice"}


def test_notices_a_task_that_ended_twice() -> None:
    assert broken(replace(history(), ended=(*ROWS, "done"))) == {"ended twice"}


def test_detects_an_attempt_without_a_row() -> None:
    found = replace(with_rows({"done": "c", "failed": "f", "retried": "c"}, retried=0), metrics_processed=4)

    assert "incomplete" in broken(found)


def test_accepts_attempts_that_are_counted_as_dropped() -> None:
    found = with_rows({"done": "c", "retried": "rc"}, failed=0)

    assert broken(replace(found, dropped=1, charted_dropped=1)) == set()


def test_detects_more_drops_than_missing_rows() -> None:
    assert "incomplete" in broken(replace(history(), dropped=1, charted_dropped=1))


def test_detects_drops_that_charts_do_not_show() -> None:
    found = with_rows({"done": "c", "retried": "rc"}, failed=0)

    assert "rollups" in broken(replace(found, dropped=1))


def test_accepts_successes_that_are_only_counted() -> None:
    found = replace(history(), rows={"retried": "rc", "failed": "f"}, counted_only=1)

    assert broken(found) == set()


def test_notices_a_row_that_no_task_noted() -> None:
    assert "rows" in broken(with_rows(ROWS | {"done": "cf"}, failed=2))


def test_accepts_a_lost_attempt_in_place_of_what_the_task_noted() -> None:
    found = replace(with_rows(ROWS | {"done": "lc"}, lost=1), journal=ROWS | {"done": "cc"})
    result = check_history(replace(found, processed=5, metrics=SUMS | {"lost": 1}, metrics_processed=5))

    assert (result.violations, result.missing.total(), result.lost) == ([], 0, 1)


def test_detects_an_attempt_that_is_stored_twice() -> None:
    assert broken(replace(history(), twice=("attempt 1 of done has 2 rows",))) == {"twice"}


def test_detects_a_rollup_that_counts_an_attempt_twice() -> None:
    assert broken(replace(history(), hours=SUMS | {"completed": 3})) == {"rollups"}


def test_detects_counters_that_differ_by_more_than_one_percent() -> None:
    assert broken(replace(history(), processed=5)) == {"sums"}
    assert broken(replace(history(), metrics=SUMS | {"completed": 3})) == {"sums"}
