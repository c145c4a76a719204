"""Queues for the tests of this package."""

from typing import Any

from queues.definitions import Deployment, Limits, QueueDefinition, QueueSpec, SubQueueSpec


def spec(name: str = "inference", *sub_queues: str, **changes: Any) -> QueueSpec:
    """Return a valid specification; sub-queues are written `high:10`."""
    subs = tuple(SubQueueSpec(name=sub.split(":")[0], priority=int(sub.split(":")[1])) for sub in sub_queues)
    facts: dict[str, Any] = {
        "name": name,
        "priority": max((sub.priority for sub in subs), default=5),
        "sub_queues": subs,
        "deployment": Deployment(git_url="https://github.com/example/repo.git", startup_cmd="python main.py"),
    }
    return QueueSpec(**facts | changes)


def definition(name: str = "inference", *sub_queues: str, **changes: Any) -> QueueDefinition:
    """Return a definition with the built-in limits."""
    return QueueDefinition.of(spec(name, *sub_queues, **changes), Limits())
