"""How long SQLite's write lock is held: the size of transactions, and what is outside of them."""

import gc
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.streams.run_log import RunEntry
from tasks.history.fulltext_index import merge_segments
from tasks.history.queries import RunFilter, list_runs
from tasks.history.record import store_entries
from tasks.history.rows import COLUMN_NAMES, QueueIdentity
from tasks.models import TaskRun
from tasks.transactions import MAX_ROWS, MIN_ROWS, BatchSize, write_transaction
from tests.support.runs import make_run

pytestmark = pytest.mark.django_db

IDENTITY = QueueIdentity(redis_queue="mail", queue="mail")


def test_batches_shrink_when_the_database_is_slow_and_grow_when_it_is_fast():
    size = BatchSize(100)
    size.adapt(100, 1.0)
    slow = size.value
    size.adapt(slow, 0.0)

    assert slow < 100
    assert size.value == 2 * slow


def test_batches_stay_within_bounds():
    size = BatchSize()
    for _ in range(20):
        size.adapt(size.value, 60.0)
    assert size.value == MIN_ROWS

    for _ in range(20):
        size.adapt(size.value, 0.0)
    assert size.value == MAX_ROWS


def test_a_small_transaction_shows_nothing_about_larger_ones():
    size = BatchSize(100)

    size.adapt(3, 0.0)

    assert size.value == 100


def test_no_garbage_is_collected_while_the_lock_is_held(broker: Broker):
    with write_transaction():
        assert not gc.isenabled()

    assert gc.isenabled()


def test_the_time_without_the_lock_does_not_count(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    times = iter([10.0, 10.5])
    monkeypatch.setattr("tasks.transactions.clock", SimpleNamespace(monotonic_s=lambda: next(times)))

    with write_transaction() as written:
        pass

    assert written.held_s == 0.5


def test_the_number_of_statements_does_not_grow_with_the_runs():
    ended_ns = clock.now_ns()  # all in one minute

    def count(number: int) -> int:
        entries = [(IDENTITY, RunEntry((number, n), make_run(ended_ns=ended_ns))) for n in range(number)]
        with CaptureQueriesContext(connection) as queries:
            store_entries(entries, max_rate=0)
        return len(queries)

    count(1)
    assert count(150) == count(2)
    assert TaskRun.objects.count() == 153


def test_a_row_has_all_columns_of_its_model():
    assert {*COLUMN_NAMES, "id"} == {field.name for field in TaskRun._meta.concrete_fields}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has one index")
def test_segments_of_the_text_index_are_merged_by_transactions_of_their_own(broker: Broker):
    merge_segments()
    at_first = count_segments()
    for number in range(1, 13):  # FTS5 merges 16 at once if none has
        entry = RunEntry((number, 1), make_run(payload=b'{"order":"A-%d"}' % number))
        store_entries([(IDENTITY, entry)], max_rate=0)
    before = count_segments()

    merge_segments()

    assert before == at_first + 12
    assert count_segments() <= at_first + 3
    assert len(list_runs(RunFilter(text="A-7"), limit=9).runs) == 1


def count_segments() -> int:
    """Return the number of segments of SQLite's full-text index, in which each has pages of its own."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT segid) FROM tasks_taskrun_text_idx")
        return cursor.fetchone()[0]
