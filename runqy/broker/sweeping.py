"""Runs a maintenance request for many queues in one round trip, again where there is more, past queues in disorder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import structlog

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.operation import Request
from runqy.errors import RunqyError

T = TypeVar("T")

MAX_ROUNDS = 40
"""How often one sweep comes back to a queue that has more; the rest waits for the next sweep."""

_log = structlog.get_logger(__name__)
REPORT_EVERY_S = 60
_reported_at: dict[str, float] = {}
"""Queue -> when its disorder was last logged; a sweep comes every second."""


def run_each(broker: Broker, requests: Mapping[str, Request[T]]) -> dict[str, T]:
    """Run one request a queue, all in one round trip; a queue that fails is logged and left out.

    Raises BrokerUnavailable when Redis is away.
    """
    succeeded: dict[str, T] = {}
    for queue, outcome in zip(requests, broker.run_all(list(requests.values())), strict=True):
        if isinstance(outcome, RunqyError):
            _report(queue, outcome)
        else:
            succeeded[queue] = outcome
    return succeeded


def sweep(
    broker: Broker, queues: Iterable[str], make: Callable[[str], Request[T]], has_more: Callable[[T], bool]
) -> list[tuple[str, T]]:
    """Run a request for every queue, and again for those whose outcome says that there is more."""
    outcomes: list[tuple[str, T]] = []
    remaining = list(queues)
    for _ in range(MAX_ROUNDS):
        if not remaining:
            break
        round_outcomes = run_each(broker, {queue: make(queue) for queue in remaining})
        outcomes.extend(round_outcomes.items())
        remaining = [queue for queue, outcome in round_outcomes.items() if has_more(outcome)]
    return outcomes


def _report(queue: str, error: RunqyError) -> None:
    """Log that a queue fails, at most once a minute."""
    now = clock.monotonic_s()
    if now - _reported_at.get(queue, float("-inf")) >= REPORT_EVERY_S:
        _reported_at[queue] = now
        _log.warning("queue_left_out", queue=queue, error=error.detail)
