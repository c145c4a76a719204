"""List the tasks of a queue in one state, page by page, while tasks come and go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import Value, script
from runqy.broker.states import TaskState
from runqy.broker.tasks.record import TaskRecord, read_record

MAX_PAGE_BYTES = 8 << 20
"""A page ends early when its payloads and results reach this size."""

LISTED_STATES = tuple(state for state in TaskState if state is not TaskState.AGGREGATING)
"""The states that tasks of runqy have."""

_SINCE_FIELDS = {TaskState.PENDING: "pending_since", TaskState.ACTIVE: "started"}
"""The fields that hold the order of tasks in the two states that are lists, without scores."""

_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?|", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Where a page ended. Its last task may have left the state when the next page is requested."""

    id: str
    position: str
    """The score of the last task, or since when in ns it is pending or active; empty if unknown."""
    next_id: str = ""
    """In a list: the id of the next task; in groups: the name of the group."""
    depth: int = 0
    """In a list: the number of tasks before it."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that no page ends with."""
        if not self.id or not _NUMBER.fullmatch(self.position) or not 0 <= self.depth < 1 << 40:
            raise ValueError("invalid anchor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some tasks of one state, in order."""

    tasks: list[TaskRecord]
    end: Anchor | None
    """Where the next page begins; None on the last page."""


def list_tasks(  # noqa: PLR0913 (a page of a list)
    queue: str,
    state: TaskState,
    *,
    limit: int,
    is_newest_first: bool = False,
    after: Anchor | None = None,
    max_bytes: int | None = None,
) -> Request[Page]:
    """Return up to `limit` tasks of a state, those that run or expire next first. Tasks of asynq's groups come group by
    group.

    A page ends early after `max_bytes`, by default MAX_PAGE_BYTES, but has at least one task. A task that stays in the
    state from the first page to the last is on exactly one page.
    """
    queue_keys = QueueKeys.of(queue)
    shared: dict[str, Value] = {
        "task_prefix": queue_keys.task_prefix,
        "state": state,
        "limit": limit,
        "max_bytes": max_bytes or MAX_PAGE_BYTES,
        "is_newest_first": int(is_newest_first),
        "anchor_id": after.id if after else "",
    }
    if since_field := _SINCE_FIELDS.get(state):
        call = script("list_queued")(
            index=queue_keys.index(state),
            **shared,
            since_field=since_field,
            anchor_since=after.position or "0" if after else "0",
            next_id=after.next_id if after else "",
            depth=after.depth if after else 0,
        )
        return Request((call,), partial(_parse_queued_page, queue), is_bulky=True)
    is_grouped = state is TaskState.AGGREGATING
    call = script("list_sorted")(
        index=queue_keys.groups if is_grouped else queue_keys.index(state),
        group_prefix=queue_keys.group("") if is_grouped else "",
        anchor_group=after.next_id if after and is_grouped else "",
        anchor_score=after.position or "0" if after else "",
        **shared,
    )
    return Request((call,), partial(_parse_sorted_page, queue), is_bulky=True)


def _parse_sorted_page(queue: str, replies: Sequence[Reply]) -> Page:
    last, score, has_more, found, group = replies[0]
    end = Anchor(id=_text(last), position=_text(score), next_id=_text(group)) if has_more else None
    return Page(tasks=_parse_records(queue, found), end=end)


def _parse_queued_page(queue: str, replies: Sequence[Reply]) -> Page:
    last, since, following, depth, found = replies[0]
    position = _text(since) if since.isdigit() else ""
    end = Anchor(id=_text(last), position=position, next_id=_text(following), depth=depth) if following else None
    return Page(tasks=_parse_records(queue, [(task_id, b"", pairs) for task_id, _, pairs in found]), end=end)


def _parse_records(queue: str, found: Sequence[Reply]) -> list[TaskRecord]:
    records = (read_record(queue, _text(task_id), score, pairs) for task_id, score, pairs in found)
    return [record for record in records if record is not None]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
