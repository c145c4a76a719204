"""Searching the history of runs: by text, by several conditions."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from runqy.broker.states import RunOutcome
from runqy.errors import RequestInvalid, SearchTooSlow
from tasks import transactions
from tasks.copies import find_stored_payloads
from tasks.history import queries
from tasks.history.fulltext_index import holds_terms, parse_terms, payload_text
from tasks.history.queries import RunFilter, RunOrder, TaskCount, count_ended_tasks, list_runs
from tasks.models import TaskRun
from tests.support.runs import insert_runs, make_failure, make_run

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_NS = int(NOON.timestamp()) * 10**9
SECOND = 10**9
FAILURES = frozenset({RunOutcome.FAILED, RunOutcome.RETRIED, RunOutcome.TIMED_OUT, RunOutcome.LOST})


def ids(run_filter: RunFilter, order: RunOrder = RunOrder.NEWEST) -> list[str]:
    return [run.task_id for run in list_runs(run_filter, limit=50, order=order).runs]


@pytest.mark.parametrize(
    "text",
    [
        "ORD-2024_0017",
        "ord-2024_0017",
        "0017",
        "2024_0017",
        "ORD-2024_00",
        "4711",
        "47",
        "Müller",
        "4711 ORD-2024",
        "wher",
    ],
)
def test_a_task_is_found_by_what_its_payload_holds(text: str) -> None:
    insert_runs(
        make_run(task_id="it", payload='{"order":"ORD-2024_0017","customer":4711,"to":"Müller, somewhere"}'.encode()),
        make_run(task_id="other", payload=b'{"order":"ORD-2025_0018","customer":14711,"to":"Maier"}'),
    )

    assert ids(RunFilter(text=text)) == (["it"] if text != "wher" else [])


ESCAPED = json.dumps({"text": "Müller Ärger", "face": "😀ab", "sign": "\x00x\n", "path": "C:\\u00e4x"})


@pytest.mark.parametrize(
    ("text", "is_found"), [("Müller", True), ("müll", True), ("Ärger", True), (r"M\u00fcller", True), ("äx", False)]
)
def test_a_payload_with_escapes_is_found_by_its_characters(text: str, is_found: bool) -> None:
    insert_runs(make_run(task_id="it", payload=ESCAPED.encode()), queue="mail")

    assert ids(RunFilter(text=text)) == (["it"] if is_found else [])
    assert holds_terms(parse_terms(text), payload_text(ESCAPED.encode())) == is_found
    assert json.loads(find_stored_payloads([("mail", "it")])["mail", "it"].content) == json.loads(ESCAPED)


@pytest.mark.parametrize(
    ("stored", "decoded"),
    [
        (r"\u00fc\u4E2D\uD83D\uDE00\u003cb\u003e", "ü中😀<b>"),
        (r"\u0000\u001f\u0022\u005c", r"\u0000\u001f\u0022\u005c"),
        (r"\ud83d \ude00 \ud83dx\ud83d\u00fc", r"\ud83d \ude00 \ud83dx\ud83dü"),
        (r"\\u00fc \\\u00fc", r"\\u00fc \\ü"),
        (r"\u00f \u00zz \u", r"\u00f \u00zz \u"),
    ],
)
def test_only_escapes_that_json_does_not_need_are_decoded(stored: str, decoded: str) -> None:
    assert payload_text(stored.encode()) == decoded


def test_terms_have_to_be_there_all_and_words_in_a_row() -> None:
    insert_runs(
        make_run(task_id="a", payload=b'{"order":"A-1-2"}'),
        make_run(task_id="b", payload=b'{"order":"A-2-1","note":"A-1"}'),
    )

    assert ids(RunFilter(text="A-1-2")) == ["a"]
    assert ids(RunFilter(text="A-2 note")) == ["b"]


def test_a_task_is_found_by_its_error_and_traceback() -> None:
    traceback = "Traceback (most recent call last):\n  File \"tag.py\", line 3, in crop_face\nKeyError: 'width'"
    insert_runs(make_failure(traceback, task_id="t1"), make_failure("TimeoutError: no response", task_id="t2"))

    assert ids(RunFilter(text="keyerror width")) == ["t1"]
    assert ids(RunFilter(text="crop_face")) == ["t1"]
    assert ids(RunFilter(text="no response")) == ["t2"]


@pytest.mark.parametrize("text", ['"', "'", "* OR -", '" OR "', "a:*)|(b", "NEAR(", "%s", "\\", "!a", "payload:x"])
def test_signs_of_a_query_language_mean_nothing(text: str) -> None:
    insert_runs(make_run(task_id="t1", payload=b'{"x":"zzz"}'))

    try:
        assert ids(RunFilter(text=text)) == []
    except RequestInvalid:
        assert not any(letter.isalnum() for letter in text)


def test_a_deleted_run_is_no_longer_found() -> None:
    (run,) = insert_runs(make_run(task_id="t1", payload=b'{"order":"A-17"}'))
    insert_runs(make_run(task_id="t2", payload=b'{"order":"A-18"}'))

    TaskRun.objects.filter(pk=run.pk).delete()

    assert ids(RunFilter(text="A-17")) == []
    assert ids(RunFilter(text="order")) == ["t2"]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:  # raises where the index does not agree with the table
            cursor.execute("INSERT INTO tasks_taskrun_text(tasks_taskrun_text, rank) VALUES ('integrity-check', 1)")


def test_a_text_narrows_the_other_conditions_and_orders() -> None:
    insert_runs(
        make_run(task_id="fast", payload=b'{"order":"A-1"}', started_ns=NOON_NS - SECOND, ended_ns=NOON_NS),
        make_run(task_id="slow", payload=b'{"order":"A-1"}', started_ns=NOON_NS - 9 * SECOND, ended_ns=NOON_NS),
    )
    insert_runs(make_run(task_id="elsewhere", payload=b'{"order":"A-1"}'), queue="video")

    assert ids(RunFilter(text="A-1", queue="mail"), RunOrder.SLOWEST) == ["slow", "fast"]


@pytest.mark.parametrize(
    "run_filter",
    [
        RunFilter(worker_id="w2", outcomes=FAILURES),
        RunFilter(commit="abc", queue="mail", outcomes=FAILURES),
        RunFilter(outcomes=FAILURES),
        RunFilter(queue="mail", outcomes=FAILURES, since=NOON),
        RunFilter(allowed_queues=frozenset({"mail", "video"}), outcomes=FAILURES),
        RunFilter(allowed_queues=frozenset({"mail"}), worker_id="w2"),
        RunFilter(redis_queue="mail", is_final=True),
        RunFilter(min_run_ms=1500),
        RunFilter(fingerprint="f", worker_id="w2"),
    ],
)
@pytest.mark.parametrize("order", RunOrder)
def test_pages_hold_what_a_filter_finds_each_once(run_filter: RunFilter, order: RunOrder) -> None:
    for queue in ("mail", "video", "audio"):
        insert_runs(
            *(
                make_run(
                    ended_ns=NOON_NS + number // 3 * SECOND,
                    started_ns=NOON_NS - number % 4 * SECOND,
                    worker_id=f"w{number % 3}",
                    commit="abc" if number % 2 else "def",
                    outcome=list(RunOutcome)[number % 7],
                    is_final=bool(number % 5),
                    error="ValueError: x",
                )
                for number in range(-20, 20)
            ),
            queue=queue,
        )
    if run_filter.fingerprint:
        fingerprint = TaskRun.objects.exclude(fingerprint=None).values_list("fingerprint", flat=True)[0]
        run_filter = RunFilter(fingerprint=fingerprint, worker_id="w2")
    runs = list(queries.filter_runs(run_filter))

    found, after, is_first = [], None, True
    while is_first or after:
        page = list_runs(run_filter, limit=4, order=order, after=after)
        found, after, is_first = found + page.runs, page.end, False

    assert runs
    key = (lambda run: (run.run_ms, run.pk)) if order is RunOrder.SLOWEST else (lambda run: (run.ended_at, run.pk))
    assert found == sorted(runs, key=key, reverse=order is not RunOrder.OLDEST)


@pytest.mark.parametrize("order", RunOrder)
def test_a_text_that_many_runs_hold_is_found_with_other_conditions(order: RunOrder) -> None:
    for queue in ("mail", "video"):
        insert_runs(
            *(
                make_run(
                    payload=b'{"word":1}' if number % 4 else b'{"other":1}',
                    ended_ns=NOON_NS + number * SECOND,
                    started_ns=NOON_NS - number % 3 * SECOND,
                    outcome=list(RunOutcome)[number % 7],
                )
                for number in range(1, 20)
            ),
            queue=queue,
        )
    runs = [run for run in TaskRun.objects.filter(queue="mail", payload__contains="word") if run.outcome in FAILURES]

    page = list_runs(RunFilter(text="word", queue="mail", outcomes=FAILURES), limit=50, order=order)

    key = (lambda run: (run.run_ms, run.pk)) if order is RunOrder.SLOWEST else (lambda run: (run.ended_at, run.pk))
    assert runs
    assert page.runs == sorted(runs, key=key, reverse=order is not RunOrder.OLDEST)


def test_a_statement_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "MAX_SEARCH_S", 0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    with (
        pytest.raises(SearchTooSlow, match="Narrow the period"),
        transactions.search_limit(),
        connection.cursor() as cursor,
    ):
        cursor.execute(endless)

    assert not TaskRun.objects.exists()


@pytest.mark.parametrize(
    ("run_filter", "expected"),
    [
        (RunFilter(), (7, True)),
        (RunFilter(outcomes=FAILURES), (3, True)),
        (RunFilter(outcomes=frozenset({RunOutcome.RETRIED})), (0, True)),
        (RunFilter(worker_id="w1", outcomes=frozenset({RunOutcome.FAILED})), (2, True)),
        (RunFilter(text="word"), (4, True)),
        (RunFilter(text="word", outcomes=FAILURES), (0, True)),
    ],
)
def test_tasks_are_counted_not_attempts(run_filter: RunFilter, expected: tuple[int, bool]) -> None:
    retried = make_run(task_id="t1", outcome=RunOutcome.RETRIED, is_final=False, error="ValueError: 1")
    insert_runs(retried, make_failure(task_id="t1", attempt=2), make_failure(), make_failure(worker_id="w2"))
    insert_runs(*(make_run(payload=b'{"word":1}') for _ in range(4)))

    found = count_ended_tasks(run_filter, limit=10)

    assert (found.count, found.is_exact) == expected


def test_a_count_ends_at_its_limit() -> None:
    insert_runs(*(make_run(payload=b'{"word":1}') for _ in range(9)), *(make_failure() for _ in range(3)))

    assert count_ended_tasks(RunFilter(), limit=5) == TaskCount(count=5, is_exact=False)
    assert count_ended_tasks(RunFilter(text="word"), limit=9) == TaskCount(count=9, is_exact=True)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by statistics")
@pytest.mark.parametrize("order", [RunOrder.NEWEST, RunOrder.OLDEST])
@pytest.mark.parametrize(
    "run_filter",
    [
        RunFilter(),
        RunFilter(queue="mail"),
        RunFilter(queue="mail", outcomes=FAILURES, since=NOON, until=NOON + timedelta(days=1)),
        RunFilter(allowed_queues=frozenset({"mail", "video"}), outcomes=FAILURES),
        RunFilter(since=NOON),
        RunFilter(worker_id="w1", since=NOON),
        RunFilter(commit="abc"),
        RunFilter(fingerprint="f", queue="mail"),
        RunFilter(text="A-17"),
        RunFilter(text="A-17", queue="mail", outcomes=FAILURES),
    ],
)
def test_an_index_has_the_runs_of_a_list_in_order(run_filter: RunFilter, order: RunOrder) -> None:
    with CaptureQueriesContext(connection) as queries:
        list_runs(run_filter, limit=50, order=order)

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {queries.captured_queries[-1]['sql']}")
        plan = [row[3] for row in cursor.fetchall()]
    assert not [step for step in plan if re.fullmatch("SCAN tasks_taskrun|USE TEMP B-TREE FOR ORDER BY", step)], plan


@pytest.mark.parametrize("order", RunOrder)
def test_a_queue_that_the_caller_may_not_use_has_no_runs(order: RunOrder) -> None:
    insert_runs(make_failure(), queue="video")

    assert ids(RunFilter(queue="video", allowed_queues=frozenset({"mail"})), order) == []
    assert ids(RunFilter(queue="video", allowed_queues=frozenset({"mail"}), outcomes=FAILURES), order) == []
