"""Scan the key space in bounded steps, and run requests for many queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import command
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import RunqyError


class KeyScanner:
    """An endless scan of the keys that match a pattern: each step sends one SCAN to each node, each round returns every
    key.
    """

    def __init__(self, pattern: str, step: int, kind: str = "hash") -> None:
        """`step` is the approximate number of keys checked in one step. `kind` is the type of the keys; empty: any."""
        self._pattern = pattern
        self._step = step
        self._kind = ("TYPE", kind) if kind else ()
        self._cursors: dict[str, int] = {}  # node -> cursor; nodes that were scanned to their end are missing

    async def next_keys(self, broker: AnyBroker) -> list[str]:
        """Return the matching keys of the next step as text. runqy writes only UTF-8: bytes of other programs are
        replaced.
        """
        return [name.decode(errors="replace") for name in await self.next_names(broker)]

    async def next_names(self, broker: AnyBroker) -> list[bytes]:
        """Return the matching keys of the next step, from all nodes whose scan has not ended."""
        nodes = await broker.nodes()
        if self.is_at_start:
            self._cursors = dict.fromkeys(nodes, 0)
        found: list[bytes] = []
        for node in self._cursors.keys() & set(nodes):
            self._cursors[node], names = await broker.send_to(node, self._scan(self._cursors[node]))
            found += names
        # Redis returns 0 when the scan of a node has ended.
        self._cursors = {node: cursor for node, cursor in self._cursors.items() if cursor and node in nodes}
        return found

    def _scan(self, cursor: int) -> Request[tuple[int, list[bytes]]]:
        options = ("MATCH", self._pattern, "COUNT", self._step, *self._kind)
        scan = command("SCAN", cursor, *options, key=None)
        return Request((scan,), lambda replies: (int(replies[0][0]), list(replies[0][1])))

    @property
    def is_at_start(self) -> bool:
        """Whether the round is complete, so that the next step starts a new one."""
        return not self._cursors


T = TypeVar("T")

MAX_ROUNDS = 40
"""How often one run asks a queue again that has more. The rest waits for the next run."""

# Nothing records the end of a failure here: one request for a queue may succeed while another fails, each second.
_failures = FailureLog("queues_included")


async def run_requests(broker: AnyBroker, requests: Mapping[str, Request[T]]) -> dict[str, T]:
    """Run one request per queue, all in one round trip. A queue whose request fails is logged and left out.

    Raise BrokerUnavailable.
    """
    succeeded: dict[str, T] = {}
    outcomes = await broker.send_all(list(requests.values()))
    for queue, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, RunqyError):
            _failures.record("queue_left_out", key=queue, queue=queue, error=outcome.detail)
        else:
            succeeded[queue] = outcome
    return succeeded


async def for_each_queue(
    broker: AnyBroker, queues: Iterable[str], make: Callable[[str], Request[T]], has_more: Callable[[T], bool]
) -> list[tuple[str, T]]:
    """Run a request for every queue, and again for those whose outcome has more."""
    outcomes: list[tuple[str, T]] = []
    remaining = list(queues)
    for _ in range(MAX_ROUNDS):
        if not remaining:
            break
        round_outcomes = await run_requests(broker, {queue: make(queue) for queue in remaining})
        outcomes.extend(round_outcomes.items())
        remaining = [queue for queue, outcome in round_outcomes.items() if has_more(outcome)]
    return outcomes
