"""Listing tasks page by page while tasks come and go."""

from collections.abc import Callable

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from runqy.broker.tasks import listing
from runqy.broker.tasks.finish import archive
from runqy.broker.tasks.inspector import delete_tasks
from runqy.broker.tasks.listing import Anchor, Page, list_tasks
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, put_in_group, take, take_one

KEYS = QueueKeys(QUEUE)
IDS = [f"t{n}" for n in range(7)]
PENDING, ARCHIVED, SCHEDULED, ACTIVE = TaskState.PENDING, TaskState.ARCHIVED, TaskState.SCHEDULED, TaskState.ACTIVE
AGGREGATING = TaskState.AGGREGATING


def page(broker: Broker, state: TaskState, after: Anchor | None = None, limit: int = 3, **options: bool) -> Page:
    """Return a page."""
    return broker.run(list_tasks(QUEUE, state, limit=limit, after=after, **options))


def rest(broker: Broker, state: TaskState, first: Page, **options: bool) -> list[str]:
    """Return the ids on all pages behind one."""
    found, end = [], first.end
    while end:
        following = page(broker, state, end, **options)
        found, end = found + [task.id for task in following.tasks], following.end
    return found


def ids(found: Page) -> list[str]:
    """Return the ids on a page."""
    return [task.id for task in found.tasks]


def fill(broker: Broker, state: TaskState, *task_ids: str) -> None:
    """Bring tasks into a state, those of a sorted set all with one score."""
    at_s = 4_000_000_000
    for number, task_id in enumerate(task_ids):
        if state is AGGREGATING:
            put(broker, task_id)
            put_in_group(broker, f"g{number // 2}", task_id)
            redis_of(broker).sadd(KEYS.groups, "empty")
            continue
        put(broker, task_id, process_at_s=at_s if state is SCHEDULED else None)
        if state in (ACTIVE, ARCHIVED):
            taken = take_one(broker)
        if state is ARCHIVED:
            broker.run(archive(taken.lease, taken.message, error="boom", now_ns=at_s * 10**9))


@pytest.mark.parametrize("state", [PENDING, ACTIVE, SCHEDULED, ARCHIVED, AGGREGATING])
@pytest.mark.parametrize("is_newest_first", [False, True])
def test_every_task_is_on_one_page(broker: Broker, state: TaskState, is_newest_first: bool) -> None:
    fill(broker, state, *IDS)

    first = page(broker, state, is_newest_first=is_newest_first)

    expected = IDS[::-1] if is_newest_first else IDS
    assert ids(first) == expected[:3]
    assert rest(broker, state, first, is_newest_first=is_newest_first) == expected[3:]
    assert {task.state for task in first.tasks} == {state}


def test_the_last_page_has_no_end_even_when_it_is_full(broker: Broker) -> None:
    fill(broker, PENDING, "t0", "t1", "t2")
    fill(broker, SCHEDULED, "s0", "s1", "s2")

    assert [page(broker, PENDING).end, page(broker, SCHEDULED).end] == [None, None]
    assert page(broker, ARCHIVED) == Page(tasks=[], end=None)


@pytest.mark.parametrize("state", [PENDING, SCHEDULED, ARCHIVED])
@pytest.mark.parametrize("is_newest_first", [False, True])
def test_tasks_that_stay_are_listed_once_although_the_anchor_is_removed(
    broker: Broker, state: TaskState, is_newest_first: bool
) -> None:
    fill(broker, state, *IDS)
    first = page(broker, state, is_newest_first=is_newest_first)
    broker.run(delete_tasks(QUEUE, ids(first)[1:]))
    fill(broker, state, *(["zz"] if not is_newest_first else []))

    found = rest(broker, state, first, is_newest_first=is_newest_first)

    assert found == ([*IDS[3:], "zz"] if not is_newest_first else IDS[3::-1])


def test_dequeues_between_pages_hide_no_task(broker: Broker) -> None:
    fill(broker, PENDING, *IDS)
    first = page(broker, PENDING)
    take(broker, 5)
    fill(broker, PENDING, "t7")

    assert rest(broker, PENDING, first) == ["t5", "t6", "t7"]


def test_tasks_that_come_between_pages_shift_none(broker: Broker) -> None:
    fill(broker, PENDING, *IDS)
    first = page(broker, PENDING, is_newest_first=True)
    fill(broker, PENDING, "t7", "t8")
    redis_of(broker).rpush(KEYS.pending, "given-back")

    assert rest(broker, PENDING, first, is_newest_first=True) == ["t3", "t2", "t1", "t0"]


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_a_page_continues_after_removed_tasks_of_a_batch_of_one_age(broker: Broker, is_newest_first: bool) -> None:
    fill(broker, PENDING, *IDS)
    for task_id in IDS:
        redis_of(broker).hset(KEYS.task(task_id), "pending_since", 5)
    first = page(broker, PENDING, is_newest_first=is_newest_first)
    broker.run(delete_tasks(QUEUE, [first.tasks[-1].id]))

    found = rest(broker, PENDING, first, is_newest_first=is_newest_first)

    assert found == (IDS[3::-1] if is_newest_first else IDS[3:])


@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("taken", [0, 700])
@pytest.mark.parametrize("ages", ["in order", "all one", "in disorder"])
def test_a_long_list_continues_after_the_anchors_current_position(
    single_broker: Broker, ages: str, taken: int, is_newest_first: bool
) -> None:
    client, count = redis_of(single_broker), 3000
    many = [f"t{number:04}" for number in range(count)]
    since = {"in order": range(count), "all one": [7] * count, "in disorder": range(count, 0, -1)}[ages]
    for task_id, pending_since in zip(many, since, strict=True):
        put_hash = {"msg": b"", "state": "pending", "pending_since": 10**18 + pending_since}
        client.hset(KEYS.task(task_id), mapping=put_hash)
    client.lpush(KEYS.pending, *many)
    order = many[::-1] if is_newest_first else many
    anchor = Anchor(
        id=order[1999], position=str(10**18 + since[many.index(order[1999])]), next_id=order[2000], depth=2000
    )
    client.ltrim(KEYS.pending, 0, count - taken - 1)
    if taken and is_newest_first:
        client.lpush(KEYS.pending, *[f"young{number}" for number in range(taken)])

    found = single_broker.run(list_tasks(QUEUE, PENDING, limit=3, after=anchor, is_newest_first=is_newest_first))

    assert found.end is not None
    assert found.end.id == order[2002]


@pytest.mark.parametrize("in_seconds", [(), IDS[::2], IDS[1::2]])
def test_a_task_that_follows_the_anchor_may_go_too(broker: Broker, in_seconds: tuple[str, ...]) -> None:
    fill(broker, PENDING, *IDS)
    for number, task_id in enumerate(IDS):  # Go's worker writes seconds
        since_s = 1_800_000_000 + number
        since = since_s if task_id in in_seconds else since_s * 10**9
        redis_of(broker).hset(KEYS.task(task_id), "pending_since", since)
    first = page(broker, PENDING)
    broker.run(delete_tasks(QUEUE, ["t2", "t3"]))

    assert rest(broker, PENDING, first) == ["t4", "t5", "t6"]


def test_ids_are_ordered_as_redis_orders_them(broker: Broker) -> None:
    names = ["A-b", "A_b", "a", "ab", "b", "Ä"]
    fill(broker, SCHEDULED, *names)
    order = [name.decode() for name in redis_of(broker).zrange(KEYS.scheduled, 0, -1)]

    for is_newest_first in (False, True):
        first = page(broker, SCHEDULED, limit=1, is_newest_first=is_newest_first)
        assert ids(first) + rest(broker, SCHEDULED, first, is_newest_first=is_newest_first) == (
            order[::-1] if is_newest_first else order
        )


@pytest.mark.parametrize("state", [PENDING, SCHEDULED])
def test_ids_without_a_task_or_in_another_state_are_skipped(broker: Broker, state: TaskState) -> None:
    fill(broker, state, *IDS)
    redis_of(broker).delete(KEYS.task("t1"), KEYS.task("t2"))
    redis_of(broker).hset(KEYS.task("t4"), "state", "completed")

    first = page(broker, state)

    assert ids(first) == ["t0"]
    assert rest(broker, state, first) == ["t3", "t5", "t6"]


def test_large_tasks_make_small_pages(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGE_BYTES", 2500)
    put(broker, *IDS, payload=b'"%s"' % (b"x" * 1000))

    first = page(broker, PENDING, limit=7)

    assert ids(first) == IDS[:2]
    assert rest(broker, PENDING, first) == IDS[2:]


def test_a_task_larger_than_a_page_is_a_page(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGE_BYTES", 10)
    fill(broker, SCHEDULED, "t0", "t1")

    assert ids(page(broker, SCHEDULED)) == ["t0"]


def test_a_scheduled_task_has_the_time_of_its_run(broker: Broker) -> None:
    fill(broker, SCHEDULED, "t0")

    assert page(broker, SCHEDULED).tasks[0].next_process_at_s == 4_000_000_000


@pytest.mark.parametrize("make", [lambda: Anchor(id="", position="1"), lambda: Anchor(id="a", position="nan")])
def test_an_invalid_anchor_is_refused(make: Callable[[], Anchor]) -> None:
    with pytest.raises(ValueError, match="invalid anchor"):
        make()
