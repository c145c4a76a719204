"""The names of sub-queues; patterns of names that several packages check, without anchors, and the messages about
invalid names.
"""

from collections.abc import Iterable

SEPARATORS = ("_", ".")
"""Both are accepted in requests. A setting selects the one used in Redis."""
DEFAULT_SUB_QUEUE = "default"
"""The sub-queue that a queue's own name means."""

QUEUE_NAME_MAX_LENGTH = 128
QUEUE_NAME = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{QUEUE_NAME_MAX_LENGTH - 1}}}"
QUEUE_NAME_RULE = (
    f"Use 1 to {QUEUE_NAME_MAX_LENGTH} letters, digits, `.`, `_` and `-`, beginning with a letter or a digit."
)

VAULT_NAME_MAX_LENGTH = 64
VAULT_NAME = rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{VAULT_NAME_MAX_LENGTH - 1}}}"
VAULT_NAME_RULE = f"Use 1 to {VAULT_NAME_MAX_LENGTH} letters, digits, `_` and `-`, beginning with a letter or a digit."

VARIABLE_NAME_MAX_LENGTH = 255
VARIABLE_NAME = rf"[A-Za-z_][A-Za-z0-9_]{{0,{VARIABLE_NAME_MAX_LENGTH - 1}}}"
"""The name of an environment variable, and so the key of a vault's entry."""
VARIABLE_NAME_RULE = "Use letters, digits and `_`, not beginning with a digit."

SCHEDULE_NAME_MAX_LENGTH = 100
SCHEDULE_NAME = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SCHEDULE_NAME_MAX_LENGTH - 1}}}"
SCHEDULE_NAME_RULE = (
    f"Use 1 to {SCHEDULE_NAME_MAX_LENGTH} letters, digits, `.`, `_` and `-`, beginning with a letter or a digit."
)


def spellings_of(redis_queue: str, queue: str) -> set[str]:
    """Return the names of a Redis queue of a queue, with either separator before its sub-queue."""
    sub_queue = redis_queue.removeprefix(queue)[1:]
    return {redis_queue, *(f"{queue}{mark}{sub_queue}" for mark in SEPARATORS if sub_queue)}


def aliases_of(queue: str, sub_queues: Iterable[str]) -> set[str]:
    """Return all names of a queue with these sub-queues, with both separators.

    Each name has one meaning with either separator, so that the setting can be changed.
    """
    subs = list(sub_queues) or [DEFAULT_SUB_QUEUE]
    return {queue, *(f"{queue}{mark}{sub}" for mark in SEPARATORS for sub in subs)}
