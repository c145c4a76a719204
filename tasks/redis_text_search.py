"""Search the tasks in Redis for a text: all queues and states together, in few round trips."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.operation import Request, raise_error
from runqy.broker.queues.stats import QueueCounts
from runqy.broker.states import TaskState
from runqy.broker.tasks.listing import MAX_PAGE_BYTES, Anchor, Page, list_tasks
from runqy.broker.tasks.record import TaskRecord
from tasks.history.fulltext_index import Terms, holds_terms, parse_terms, payload_text
from tasks.task_browser import MAX_SEARCHED, NEWEST_FIRST

_ROUND = 1_000
"""The number of tasks that a round trip reads."""
_MAX_BYTES = 32 << 20
"""The payload bytes that a search reads, apart from the last round trip."""
_STATES = (TaskState.ACTIVE, TaskState.PENDING, TaskState.RETRY, TaskState.SCHEDULED, *NEWEST_FIRST)


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
        pages = _read(broker, now)
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


def _read(broker: Broker, parts: Sequence[_Part]) -> list[Page]:
    """Read parts in one round trip. Raise the first error."""
    max_bytes = MAX_PAGE_BYTES // len(parts)
    return [raise_error(outcome) for outcome in broker.run_all([part.request(max_bytes) for part in parts])]
