"""Ends tasks as workers do."""

from runqy.broker.broker import Broker
from runqy.broker.finishing import archive, complete
from runqy.broker.holding import Taken


def succeed(broker: Broker, taken: Taken, result: bytes) -> None:
    """Record the success of a task."""
    broker.run(complete(taken.hold, taken.message, result, now_ns=broker.now_ns()))


def fail_for_good(broker: Broker, taken: Taken, error: str) -> None:
    """Give a task up."""
    broker.run(archive(taken.hold, taken.message, error=error, now_ns=broker.now_ns()))
