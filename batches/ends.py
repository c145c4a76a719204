"""Take over the ends of members from the streams of ends."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from django.db.models import Q
from django.db.models.functions import Length

from batches.models import REASON_MAX_LENGTH, Batch, CallbackState, Member, MemberState
from batches.progress import lock_batch, settle, sum_waiting
from runqy.broker.replies import replace_nul
from runqy.core.formats.error_texts import find_error_line
from runqy.redis_connection import get_broker
from tasks.ends import CollectedEnd, Consumer, register_consumer


def store_ends(ends: Sequence[CollectedEnd]) -> None:
    """Store how members ended. A later end of the stream replaces an earlier one; a repeated one changes nothing."""
    by_batch: defaultdict[str, list[CollectedEnd]] = defaultdict(list)
    for each in ends:
        if each.end.notify.batch:
            by_batch[each.end.notify.batch].append(each)
    for batch_id in sorted(by_batch):  # in the same order in all processes, so that they never deadlock
        _end_members(batch_id, by_batch[batch_id])


def list_queues_of_open_batches() -> set[str]:
    """Return the queues of batches that have not ended, or whose callback is enqueued once members were run again."""
    is_open = Q(ended_at=None) | Q(callback_state=CallbackState.PLANNED)
    return {name for names in Batch.objects.filter(is_open).values_list("queues", flat=True) for name in names}


register_consumer(Consumer(lambda ends: partial(store_ends, ends), list_queues_of_open_batches))


def _end_members(batch_id: str, ends: Sequence[CollectedEnd]) -> None:
    batch = lock_batch(batch_id)
    if batch is None:  # it was deleted, or a worker forged the end
        return
    # A worker can write only to the streams of its queues: the end of another queue's task is forged.
    last = {(each.end.task_id, each.redis_queue): each for each in ends}
    members = Member.objects.filter(batch=batch, task_id__in=[task_id for task_id, _ in last]).only(
        "id", "task_id", "redis_queue", "state", "end_position"
    )
    members = members.annotate(size_bytes=Length("request"))
    # One position for all: an earlier end of a member is before it, a later one is in a later part of the stream.
    position = max(each.position for each in ends)
    changed: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    changes: Counter[str] = Counter()
    waited: list[tuple[str, int]] = []
    for member in members:
        end = last.get((member.task_id, member.redis_queue))
        if end is not None and end.position > member.end_position:
            reason = replace_nul(find_error_line(end.end.error))[:REASON_MAX_LENGTH]
            changed[end.end.outcome.value, reason].append(member.pk)
            changes[end.end.outcome.value] += 1
            changes[member.state] -= 1
            if member.state == MemberState.WAITING:  # it was enqueued, but is not marked yet
                waited.append((member.redis_queue, member.size_bytes or 0))
    for (state, reason), ids in changed.items():
        Member.objects.filter(pk__in=ids).update(state=state, end_position=position, request=None, reason=reason)
    if changed:
        gone = {queue: -each for queue, each in sum_waiting(waited).items()}
        settle(get_broker(), batch, changes, gone)
