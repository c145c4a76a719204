"""Find tasks by a filter: page by page in one state of Redis, or by a text in all states at once.

Ended tasks are found by the filter of the history that a query makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

import msgspec

from queues.queries import get_fresh_catalog, list_redis_queues
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.request import Request, raise_error
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.listing import MAX_PAGE_BYTES, Anchor, Page, list_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import QueueNotFound
from tasks.history.fulltext_index import Terms, holds_terms, parse_terms, payload_text
from tasks.history.queries import RunFilter
from tasks.queries import anchor_of

MAX_SEARCHED = 2_000
"""The number of tasks that are read for one page of a search by text."""
MAX_SEARCHED_BYTES = MAX_PAGE_BYTES
"""The bytes of payloads and results that are read for it. Searching a mebibyte takes about a tenth of a second."""
NEWEST_FIRST = (TaskState.ARCHIVED, TaskState.COMPLETED)
"""Ended tasks are listed by the latest end, the others by the next run."""
_ROUND = 1_000
"""The number of tasks that a round trip reads."""
_MAX_BYTES = 32 << 20
"""The payload bytes that a search reads, apart from the last round trip."""
_STATES = (TaskState.ACTIVE, TaskState.PENDING, TaskState.RETRY, TaskState.SCHEDULED, *NEWEST_FIRST)


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A filter of tasks. Fields that are empty or None do not limit them."""

    state: TaskState | None = None
    """Tasks in Redis in this state; None: runs of the history."""
    queue: str = ""
    """The name of a queue, including all its sub-queues, or any name of one Redis queue."""
    text: str = ""
    """Terms that the payload or the error contains."""
    until: datetime | None = None
    """Tasks that entered the state, or ended, before this time."""
    outcomes: tuple[RunOutcome, ...] = ()
    """This field and the following apply to the history only."""
    since: datetime | None = None
    worker_id: str = ""
    commit: str = ""
    fingerprint: str = ""

    def run_filter(self) -> RunFilter:
        """Return the filter of the history. Raise ConfigurationUnavailable."""
        catalog = get_fresh_catalog()
        queue, redis_queue = self.queue, ""
        if queue and catalog.find_queue(queue) is None and (resolved := catalog.find(queue)):
            queue, redis_queue = resolved.queue.name, resolved.redis_queue
        return RunFilter(
            queue=queue,
            redis_queue=redis_queue if redis_queue != queue else "",
            outcomes=frozenset(self.outcomes),
            since=self.since,
            until=self.until,
            worker_id=self.worker_id,
            commit=self.commit,
            fingerprint=self.fingerprint,
            text=self.text,
        )


class SearchCursor(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a page of tasks: the Redis queue, and the last task that was read there."""

    state: TaskState
    redis_queue: str
    anchor: Anchor | None = None
    """None: the beginning of the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A page to search for."""

    limit: int
    after: SearchCursor | None = None
    """The end of the previous page; None for the first page."""
    max_searched: int = MAX_SEARCHED
    is_oldest_first: bool = False
    """Also for states that are listed newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """A page of tasks, queue by queue."""

    tasks: list[TaskRecord]
    end: SearchCursor | None
    """None: the last page."""
    searched: int
    """The number of tasks that were read."""


def find_redis_queues(broker: Broker, name: str) -> list[str]:
    """Return the Redis queues that a name means: all of a queue, or one; all that exist for an empty name.

    Raise QueueNotFound, BrokerUnavailable.
    """
    catalog = get_fresh_catalog()
    if name and (queue := catalog.find_queue(name)):
        return [redis_queue for redis_queue, _ in catalog.redis_queues_of(queue)]
    if name and (resolved := catalog.find(name)):
        return [resolved.redis_queue]
    known = [queue.redis_queue for queue in list_redis_queues(broker)]
    if name and name not in known:
        raise QueueNotFound(f"No queue {name[:128]!r}.")
    return [name] if name else known


def count_by_queue(broker: Broker, redis_queues: Sequence[str], state: TaskState) -> dict[str, int]:
    """Return the number of tasks in a state of each Redis queue that has any, in one round trip."""
    counted = broker.run(count_tasks(redis_queues, now_ns=broker.now_ns())) if redis_queues else []
    return {counts.queue: found for counts in counted if (found := getattr(counts, state))}


def list_longest_running(broker: Broker, redis_queues: Sequence[str], *, limit: int) -> list[TaskRecord]:
    """Return the active tasks that have run for longest, in two round trips. Those of unknown age are last.

    Raise BrokerUnavailable.
    """
    queues = count_by_queue(broker, redis_queues, TaskState.ACTIVE)
    requests = [
        list_tasks(name, TaskState.ACTIVE, limit=limit, max_bytes=MAX_PAGE_BYTES // len(queues)) for name in queues
    ]
    pages = [raise_error(outcome) for outcome in broker.run_all(requests)] if requests else []
    tasks = [task for page in pages for task in page.tasks]
    return sorted(tasks, key=lambda task: task.started_at_ns or inf)[:limit]


def search_tasks(broker: Broker, redis_queues: Sequence[str], query: TaskQuery, request: SearchRequest) -> SearchPage:
    """Return a page of the tasks in a state, queue by queue, ordered by name. A short page need not be the last.

    The query must have a state. With a text every task is read, at most `max_searched`, or MAX_SEARCHED_BYTES and one
    more round trip. Raise RequestInvalid, BrokerUnavailable.
    """
    state, after, limit, max_searched = query.state, request.after, request.limit, request.max_searched
    assert state is not None  # noqa: S101 (narrows the type)
    terms = parse_terms(query.text) if query.text else ()
    is_newest_first = state in NEWEST_FIRST and not request.is_oldest_first
    names = sorted(name for name in redis_queues if after is None or name >= after.redis_queue)
    found: list[TaskRecord] = []
    searched = searched_bytes = 0
    for name in names:
        anchor = after.anchor if after is not None and after.redis_queue == name else None
        while True:
            if len(found) >= limit or searched >= max_searched or searched_bytes >= MAX_SEARCHED_BYTES:
                end = SearchCursor(state=state, redis_queue=name, anchor=anchor)
                return SearchPage(tasks=found, end=end, searched=searched)
            wanted = 200 if terms else min(limit - len(found), BATCH_MAX_TASKS)
            size = min(wanted, max_searched - searched)
            page = broker.run(list_tasks(name, state, limit=size, is_newest_first=is_newest_first, after=anchor))
            matching, read = _take_matching(page.tasks, terms, limit - len(found))
            found, searched = found + matching, searched + read
            if terms:
                searched_bytes += sum(len(task.payload) + len(task.result or b"") for task in page.tasks)
            if read < len(page.tasks):
                # The page was full before all that were read were needed: the next one begins after the last that was.
                anchor = anchor_of(page.tasks[read - 1])
            elif page.end is None:
                break
            else:
                anchor = page.end
    return SearchPage(tasks=found, end=None, searched=searched)


def _take_matching(tasks: Sequence[TaskRecord], terms: Terms, wanted: int) -> tuple[list[TaskRecord], int]:
    """Return up to `wanted` tasks that contain the terms, and how many had to be read for them."""
    found: list[TaskRecord] = []
    for position, task in enumerate(tasks):
        if not terms or holds_terms(terms, payload_text(task.payload), task.error):
            found.append(task)
        if len(found) == wanted:
            return found, position + 1
    return found, len(tasks)


@dataclass(slots=True, kw_only=True)
class StateSearch:
    """The tasks in a state that contain a text."""

    state: TaskState
    tasks: list[TaskRecord] = field(default_factory=list)
    is_complete: bool = True
    """False: not all tasks were read, or more of them match."""
    left: int = MAX_SEARCHED
    """How many tasks may still be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The tasks of a queue and state that are read next."""

    search: StateSearch
    queue: str
    size: int
    after: Anchor | None = None

    def is_full(self, limit: int) -> bool:
        """Return whether the search has `limit` tasks. If it has, note that more may match."""
        if len(self.search.tasks) < limit:
            return False
        self.search.is_complete = False
        return True

    def request(self, max_bytes: int) -> Request[Page]:
        state = self.search.state
        return list_tasks(
            self.queue,
            state,
            limit=self.size,
            is_newest_first=state in NEWEST_FIRST,
            after=self.after,
            max_bytes=max_bytes,
        )


def search_redis(broker: Broker, counted: Sequence[QueueCounts], text: str, *, limit: int) -> list[StateSearch]:
    """Return up to `limit` tasks of each state whose payload or error contains a text, in the queues that were counted.

    At most MAX_SEARCHED tasks of a state and about _MAX_BYTES are read. Raise RequestInvalid, BrokerUnavailable.
    """
    terms = parse_terms(text)
    searches = [StateSearch(state=state) for state in _STATES]
    parts = [
        part
        for search in searches
        for counts in counted
        if (count := getattr(counts, search.state)) and (part := _next_part(search, counts.queue, count))
    ]
    left = _MAX_BYTES
    while parts and left > 0:
        # The rest of a queue is read after all that are listed before it, so that no large queue excludes the others.
        now, parts = _split(parts)
        max_bytes = MAX_PAGE_BYTES // len(now)
        pages = [raise_error(outcome) for outcome in broker.run_all([part.request(max_bytes) for part in now])]
        for part, page in zip(now, pages, strict=True):
            if following := _take(part, page, terms, limit):
                parts.append(following)
        left -= sum(len(task.payload) for page in pages for task in page.tasks)
        parts = [part for part in parts if not part.is_full(limit)]
    for part in parts:
        part.search.is_complete = False
    return searches


def _split(parts: Sequence[_Part]) -> tuple[list[_Part], list[_Part]]:
    """Return the parts to read in one round trip, and the rest."""
    taken = size = 0
    while taken < len(parts) and size < _ROUND:
        size += parts[taken].size
        taken += 1
    return list(parts[:taken]), list(parts[taken:])


def _next_part(
    search: StateSearch, queue: str, count: int = BATCH_MAX_TASKS, after: Anchor | None = None
) -> _Part | None:
    """Return what to read next of a queue with `count` tasks; None if the search has read enough."""
    size = min(count, BATCH_MAX_TASKS, search.left)
    if not size:
        search.is_complete = False
        return None
    search.left -= size
    return _Part(search=search, queue=queue, size=size, after=after)


def _take(part: _Part, page: Page, terms: Terms, limit: int) -> _Part | None:
    """Keep the tasks that match; return what to read next of the queue, or None."""
    search = part.search
    search.left += part.size - len(page.tasks)  # the part had reserved its whole size
    for task in page.tasks:
        if holds_terms(terms, payload_text(task.payload), task.error):
            if len(search.tasks) == limit:
                search.is_complete = False
                return None
            search.tasks.append(task)
    return _next_part(search, part.queue, after=page.end) if page.end is not None else None
