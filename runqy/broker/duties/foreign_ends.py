"""Tell the ends of tasks that foreign programs ended: Go workers, asynq's tools. They append nothing to the stream.

What Redis still shows of such a task is told, later than other ends. Of one that they deleted nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scanning import run_requests
from runqy.broker.scripts import script
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.ends import EndOutcome
from runqy.broker.streams.run_log import make_details
from runqy.broker.tasks.archive_reasons import ARCHIVED_ON_REQUEST, find_archive_outcome, is_archived_by_user
from runqy.broker.tasks.reader import read_tasks
from runqy.broker.tasks.record import TaskRecord

SLICE_SIZE = 500
"""How many tasks of each queue and state are looked at in one call, twice: the last to expire, usually the newest, and
a slice that moves on through the others."""

_STATES = (TaskState.COMPLETED, TaskState.ARCHIVED)
_OUTCOMES = {RunOutcome.CANCELED: EndOutcome.CANCELED, RunOutcome.EXPIRED: EndOutcome.EXPIRED}

UntoldEnds = tuple[int, Mapping[str, bytes]]
"""The size of a slice, and the tasks of it whose end is untold, with their field `ended`."""


def find_untold_ends(queue: str, state: TaskState, *, offset: int) -> Request[UntoldEnds]:
    keys = QueueKeys.of(queue)
    call = script("find_untold_ends")(
        index=keys.index(state),
        task_prefix=keys.task_prefix,
        state=state.value,
        offset=offset,
        limit=SLICE_SIZE,
        max_age_s=ARCHIVE_MAX_AGE_S,
    )

    def parse(replies: Sequence[Reply]) -> UntoldEnds:
        size, found = replies[0]
        return size, {task_id.decode(errors="replace"): ended for task_id, ended in found}

    return Request((call,), parse)


@dataclass(slots=True)
class ForeignEndSearch:
    """Searches the tasks that have ended for ends that were not appended."""

    _offsets: dict[tuple[str, TaskState], int] = field(default_factory=dict)

    def tell_all(self, broker: Broker, queues: Sequence[str]) -> int:
        """Append the missing ends; return how many. Raise BrokerUnavailable."""
        slices = {f"{queue} {state} {offset}": (queue, state, offset) for queue, state, offset in self._slices(queues)}
        requests = {
            name: find_untold_ends(queue, state, offset=offset) for name, (queue, state, offset) in slices.items()
        }
        told = 0
        for name, (scanned, untold) in broker.run(run_requests(broker, requests)).items():
            queue, state, offset = slices[name]
            if offset:
                self._offsets[queue, state] = offset + scanned if scanned == SLICE_SIZE else SLICE_SIZE
            told += sum(_tell(broker, queue, untold)) if untold else 0
        return told

    def _slices(self, queues: Sequence[str]) -> Iterator[tuple[str, TaskState, int]]:
        for queue in queues:
            for state in _STATES:
                yield queue, state, 0
                yield queue, state, self._offsets.get((queue, state), SLICE_SIZE)


def _tell(broker: Broker, queue: str, untold: Mapping[str, bytes]) -> Iterator[bool]:
    now_ns = broker.now_ns()
    for record in broker.run(read_tasks(broker, [(queue, task_id) for task_id in untold])):
        if record is not None and record.state in _STATES:
            yield broker.run(_append_end(record, untold[record.id], now_ns))


def _append_end(record: TaskRecord, seen_ended: bytes, now_ns: int) -> Request[bool]:
    now_s = now_ns // 10**9
    if record.state is TaskState.COMPLETED:
        outcome, ended_ns, error = EndOutcome.COMPLETED, record.completed_at_ns or now_ns, ""
    else:
        reason = find_archive_outcome(record, now_s=now_s)
        outcome = _OUTCOMES.get(reason, EndOutcome.ARCHIVED) if reason else EndOutcome.ARCHIVED
        error = ARCHIVED_ON_REQUEST if not reason and is_archived_by_user(record, now_s=now_s) else record.error
        ended_ns = (record.message.last_failed_at or record.archived_at_s or 0) * 10**9 or now_ns
    ended_ns = min(ended_ns, now_ns)
    call = script("append_foreign_end")(
        task=QueueKeys.of(record.queue).task(record.id),
        id=record.id,
        state=record.state.value,
        seen_ended=seen_ended,
        # The index's score is the same until the task ends again.
        end_id=f"foreign-{record.score_s or 0}",
        outcome=outcome.value,
        ended_ns=ended_ns,
        attempt=min(max(record.attempts, 0), 2**31 - 1),
        details=make_details(None, error=error),
        # Go's runqy-worker stores in the score when an archived task expires: the same end must not be found again.
        told_until=max(ended_ns, (record.score_s or 0) * 10**9),
    )
    return Request((call,), lambda replies: replies[0] == 1, is_repeatable=True)
