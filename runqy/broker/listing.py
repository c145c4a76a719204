"""Lists the tasks of a queue that are in a state, page by page, while tasks come and go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.records import TaskRecord, read_record
from runqy.broker.scripts import script
from runqy.broker.states import TaskState

MAX_PAGE_BYTES = 8 << 20
"""A page ends early when the payloads and results on it come to this."""

LISTED_STATES = tuple(state for state in TaskState if state is not TaskState.AGGREGATING)

_SINCE_FIELDS = {TaskState.PENDING: "pending_since", TaskState.ACTIVE: "started"}
"""What orders the tasks of the two states that are lists."""

_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?|", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Where a page ended: the last task on it, which may be gone when the next page is asked for."""

    id: str
    position: str
    """Its score, or the ns since when it waited or ran; empty: unknown."""
    next_id: str = ""
    """In a list: the task behind it."""
    depth: int = 0
    """In a list: how many stood before it."""

    def __post_init__(self) -> None:
        """Refuse what no page ends at. Raises ValueError."""
        if not self.id or not _NUMBER.fullmatch(self.position) or not 0 <= self.depth < 1 << 40:
            raise ValueError("this is no anchor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the tasks in a state, in order."""

    tasks: list[TaskRecord]
    end: Anchor | None
    """Where the next page begins; None: this is the last."""


def list_tasks(
    queue: str, state: TaskState, *, limit: int, is_newest_first: bool = False, after: Anchor | None = None
) -> Request[Page]:
    """Read up to so many tasks, those that run or are forgotten next first.

    What is in the state from the first page to the last is on exactly one of them.
    """
    read = _list_queued if state in _SINCE_FIELDS else _list_sorted
    return read(QueueKeys(queue), state, limit, is_newest_first, after)


def _list_sorted(
    keys: QueueKeys, state: TaskState, limit: int, is_newest_first: bool, after: Anchor | None
) -> Request[Page]:
    """Read a page of a sorted set."""
    call = script("list_sorted")(
        index=keys.index(state),
        task_prefix=keys.task_prefix,
        state=state,
        limit=limit,
        max_bytes=MAX_PAGE_BYTES,
        is_newest_first=int(is_newest_first),
        anchor_score=after.position or "0" if after else "",
        anchor_id=after.id if after else "",
    )

    def parse(replies: Sequence[Reply]) -> Page:
        last, score, has_more, found = replies[0]
        end = Anchor(id=_text(last), position=_text(score)) if has_more else None
        return Page(tasks=_records(keys.queue, found), end=end)

    return Request((call,), parse, is_bulky=True)


def _list_queued(
    keys: QueueKeys, state: TaskState, limit: int, is_newest_first: bool, after: Anchor | None
) -> Request[Page]:
    """Read a page of a list."""
    call = script("list_queued")(
        index=keys.index(state),
        task_prefix=keys.task_prefix,
        state=state,
        limit=limit,
        max_bytes=MAX_PAGE_BYTES,
        is_newest_first=int(is_newest_first),
        since_field=_SINCE_FIELDS[state],
        anchor_since=after.position or "0" if after else "0",
        anchor_id=after.id if after else "",
        next_id=after.next_id if after else "",
        depth=after.depth if after else 0,
    )
    return Request((call,), partial(_queued_page, keys.queue), is_bulky=True)


def _queued_page(queue: str, replies: Sequence[Reply]) -> Page:
    """Read the reply about a list, in which a task's score says nothing."""
    last, since, following, depth, found = replies[0]
    position = _text(since) if since.isdigit() else ""
    end = Anchor(id=_text(last), position=position, next_id=_text(following), depth=depth) if following else None
    return Page(tasks=_records(queue, [(task_id, b"", pairs) for task_id, _, pairs in found]), end=end)


def _records(queue: str, found: Sequence[Reply]) -> list[TaskRecord]:
    """Read tasks; remnants that are none are left out."""
    records = (read_record(queue, _text(task_id), score, pairs) for task_id, score, pairs in found)
    return [record for record in records if record is not None]


def _text(data: bytes) -> str:
    """Read a text from a reply."""
    return data.decode("utf-8", "replace")
