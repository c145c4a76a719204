"""Batches that API keys created: how many of their members wait, and their cancellation. Their app registers both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _KeyBatches:
    count_members: Callable[[Sequence[int]], int]
    cancel: Callable[[Sequence[int]], int]


_registered: list[_KeyBatches] = []


def register_key_batches(count_members: Callable[[Sequence[int]], int], cancel: Callable[[Sequence[int]], int]) -> None:
    """Register what returns the number of waiting members of keys, and what cancels their batches and counts these.

    Both get the ids of keys. `cancel` is called in the transaction of the revocation.
    """
    _registered.append(_KeyBatches(count_members, cancel))


def count_waiting_members(key_ids: Sequence[int]) -> int:
    """Return how many members of batches that these keys created wait to be enqueued."""
    return sum(each.count_members(key_ids) for each in _registered)


def cancel_batches_of_keys(key_ids: Sequence[int]) -> int:
    """Close the batches that these keys created, let maintenance cancel their members, and return how many they are."""
    return sum(each.cancel(key_ids) for each in _registered)
