"""One round trip to Redis: the ends of some runs are recorded and new tasks taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from runqy.broker.broker import Broker
from runqy.broker.consuming import TakeOrder, take_tasks
from runqy.broker.finishing import Outcome
from runqy.broker.holding import Taken
from runqy.broker.operation import Request
from runqy.errors import BrokerCommandRefused, RunqyError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trip:
    """What a trip brought."""

    outcomes: Sequence[Outcome | RunqyError]
    taken: Sequence[Taken]


def make_trip(order: TakeOrder | None, settlements: Sequence[Request[Outcome]]) -> Callable[[Broker], Trip]:
    """Return the job that makes a trip. It raises BrokerUnavailable when any of it may or may not have run."""

    def trip(broker: Broker) -> Trip:
        try:
            if order is None:
                return Trip(broker.run_all(settlements), ())
            taken, outcomes = broker.run(take_tasks(order, now_ns=broker.now_ns(), together_with=settlements))
            return Trip(outcomes, taken)
        except BrokerCommandRefused:
            if not settlements:
                raise
            log.exception("take_refused")
            return Trip(broker.run_all(settlements), _taken(broker, order))

    return trip


def _taken(broker: Broker, order: TakeOrder | None) -> Sequence[Taken]:
    """Ask again for what a take got whose reply was not read."""
    return broker.run(take_tasks(order.repeated(), now_ns=broker.now_ns()))[0] if order else ()
