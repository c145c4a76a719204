"""Puts back tasks that say they are pending but stand in no list.

Go's runqy-worker pops a task and then registers it, and a crash between the two leaves such a task. Our own scripts
can't, so the search only runs while Go workers are registered (and for an hour after the last one vanished).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import MOST_LISTED, is_go_worker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.pending_timeouts import Waiting, list_waiting
from runqy.broker.scanning import KeyWalk
from runqy.broker.scripts import command, script
from runqy.broker.sweeping import run_each

CONFIRM_AFTER_S = 60
MAX_SUSPECTS = 10_000
CHECKS_A_STEP = 20
"""How many suspects are looked for in their lists in one step; each costs a walk through its pending list."""

_TASK_KEY = re.compile(r"asynq:\{([^{}]+)\}:t:(.+)", re.DOTALL)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A task whose hash says `pending`, as it was seen."""

    queue: str
    waiting: Waiting


def has_go_workers() -> Request[bool]:
    """Ask whether workers are registered that can leave such tasks."""
    return Request(
        (command("ZRANGE", redis_keys.WORKERS, 0, MOST_LISTED - 1, key=redis_keys.WORKERS),),
        lambda replies: any(is_go_worker(member.decode(errors="replace")) for member in replies[0]),
    )


def restore_orphan(suspect: Suspect, *, now_ns: int) -> Request[bool]:
    """Put a task to the front of its pending list, if it is still as it was seen and in no list."""
    keys = QueueKeys(suspect.queue)
    restore = script("restore_orphan")(
        task=keys.task(suspect.waiting.task_id),
        pending=keys.pending,
        active=keys.active,
        lease=keys.lease,
        idle=keys.idle,
        id=suspect.waiting.task_id,
        queue=suspect.queue,
        seen_since=suspect.waiting.since,
        now_ms=now_ns // 1_000_000,
    )
    return Request((restore,), lambda replies: replies[0] == 1)


class OrphanSearch:
    """Walks over all tasks in bounded steps, and restores those that were listless twice, a minute apart."""

    def __init__(self, step: int = 1000) -> None:
        self._walk = KeyWalk(QueueKeys("*").task("*"), step)
        self._suspects: dict[Suspect, int] = {}  # -> s at which it was first seen

    @property
    def is_round_complete(self) -> bool:
        """Tell whether every key has been met, so that the next step starts a new round."""
        return self._walk.is_at_start

    def run_step(self, broker: Broker) -> int:
        """Look at the next tasks, and restore suspects that are a minute old; return how many were restored."""
        if not broker.run(has_go_workers()):
            self._suspects.clear()
            return 0
        now_s = broker.now_s()
        for suspect in self._next_suspects(broker):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.setdefault(suspect, now_s)
        due = [suspect for suspect, since_s in self._suspects.items() if now_s - since_s >= CONFIRM_AFTER_S]
        return self._restore(broker, due)

    def _next_suspects(self, broker: Broker) -> list[Suspect]:
        """Return tasks of the walk's next step that say they are pending, yet are older than the front of their list.

        Whoever waits in the list was put there after a task that was popped before it: so a younger task needs no look.
        """
        matches = [match for key in self._walk.next_keys(broker) if (match := _TASK_KEY.fullmatch(key))]
        seen = broker.run(_states_of([(match[1], match[2]) for match in matches]))
        return _older_than_front(broker, seen)

    def _restore(self, broker: Broker, due: Sequence[Suspect]) -> int:
        """Look once more at suspects that are due, some at a time, and restore those that are in no list."""
        older = _older_than_front(broker, due)
        checked = sorted(older, key=_since_ns, reverse=True)[:CHECKS_A_STEP]  # so that the oldest ends up in front
        for suspect in ({*due} - {*older}) | {*checked}:
            del self._suspects[suspect]
        now_ns = broker.now_ns()
        restored = run_each(
            broker, {f"{s.queue}:{s.waiting.task_id}": restore_orphan(s, now_ns=now_ns) for s in checked}
        )
        for name, is_restored in restored.items():
            if is_restored:
                _log.warning("orphan_restored", task=name)
        return sum(restored.values())


def _since_ns(suspect: Suspect) -> int:
    """Return since when a suspect waits; what says nothing may be the oldest."""
    return suspect.waiting.since_ns or 0


def _states_of(tasks: Sequence[tuple[str, str]]) -> Request[list[Suspect]]:
    """Ask which of these tasks (queue, id) say that they are pending."""
    hashes = [QueueKeys(queue).task(task_id) for queue, task_id in tasks]

    def parse(replies: Sequence[Reply]) -> list[Suspect]:
        return [
            Suspect(queue, Waiting(task_id, (since or b"").decode(errors="replace")))
            for (queue, task_id), (state, since) in zip(
                tasks, (reply or (None, None) for reply in replies), strict=True
            )
            if state == b"pending"
        ]

    return Request(
        tuple(command("HMGET", key, "state", "pending_since", key=key) for key in hashes),
        parse,
        tolerates_wrong_types=True,
    )


def _older_than_front(broker: Broker, suspects: Sequence[Suspect]) -> list[Suspect]:
    """Leave out suspects that are younger than the task at the front of their queue's pending list."""
    fronts = run_each(broker, {s.queue: list_waiting(s.queue, limit=1) for s in suspects})

    def is_older(suspect: Suspect) -> bool:
        front_ns = next((waiting.since_ns for waiting in fronts.get(suspect.queue, [])), None)
        return front_ns is None or _since_ns(suspect) < front_ns

    return [suspect for suspect in suspects if is_older(suspect)]
