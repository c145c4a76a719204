"""Encrypts all entries anew with the first master key, a few in each transaction.

What is committed stays, so that it can be killed at any moment and goes on where it was when it is run again. Whoever
reads meanwhile finds every entry under one of the keys, and opens it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from django.db.models import QuerySet

from runqy.errors import VaultUnavailable
from runqy.publication.operations import Change, configuration_change
from vaults.crypto import used_key_id
from vaults.entries import EntryWriter
from vaults.keyring import get_keyring
from vaults.models import KEY_ID, Vault, VaultEntry
from vaults.operations import record_change

__all__ = ["Step", "count_outdated", "rehearse_rotation", "rotate_entries"]

BATCH = 50


@dataclass(slots=True, kw_only=True)
class Step:
    """What was done to a few entries."""

    seen: int
    rotated: int = 0
    problems: list[str] = field(default_factory=list)
    """A sentence for each entry that does not open; it stays as it is."""


def count_outdated() -> int:
    """Return how many entries are not encrypted with the first key. Raises VaultLocked."""
    return _outdated().count()


def rotate_entries(*, batch: int = BATCH) -> Iterator[Step]:
    """Encrypt what is not under the first key anew, one transaction a step. Raises VaultLocked.

    Values and their versions stay, so that no worker is told. A step is committed and published when it is given.
    """
    for ids in _batches(batch):
        yield _rotate(ids)


def rehearse_rotation(*, batch: int = BATCH) -> Iterator[Step]:
    """Open what would be encrypted anew, and change nothing. Raises VaultLocked."""
    for ids in _batches(batch):
        step = Step(seen=len(ids))
        for entry in VaultEntry.objects.filter(pk__in=ids).select_related("vault"):
            step.rotated += _opened(entry, entry.vault, step) is not None
        yield step


def _outdated() -> QuerySet[VaultEntry]:
    """Return the entries that are not under the first key."""
    return VaultEntry.objects.annotate(key_id=KEY_ID).exclude(key_id=get_keyring().first_id).order_by("pk")


def _batches(size: int) -> Iterator[list[int]]:
    """Give the ids of outdated entries, each once, also of those that stay outdated."""
    after = 0
    while ids := list(_outdated().filter(pk__gt=after).values_list("pk", flat=True)[:size]):
        yield ids
        after = ids[-1]


def _rotate(ids: Sequence[int]) -> Step:
    """Encrypt some entries anew in one transaction, unless somebody did so since, or deleted them."""
    step = Step(seen=len(ids))
    with configuration_change() as change:
        rows = _outdated().filter(pk__in=ids).select_related("vault").order_by("vault__name", "key")
        by_vault = [(vault, list(entries)) for vault, entries in groupby(rows, lambda entry: entry.vault)]
        done = [(vault, _rotate_in_vault(change, vault, entries, step)) for vault, entries in by_vault]
        for vault, keys_by_id in done:
            for old_id, keys in keys_by_id.items():
                new_id = get_keyring().first_id.hex()
                record_change("vault.rotated", vault.name, {"key_id": (old_id, new_id), "entries": (None, keys)})
    return step


def _rotate_in_vault(change: Change, vault: Vault, entries: Iterable[VaultEntry], step: Step) -> dict[str, list[str]]:
    """Encrypt entries of a vault anew; return their keys by the id of the master key that they were under."""
    writer, done = EntryWriter(change, vault), dict[str, list[str]]()
    for entry in entries:
        value = _opened(entry, vault, step)
        if value is None:
            continue
        done.setdefault(used_key_id(bytes(entry.ciphertext)).hex(), []).append(entry.key)
        writer.reseal(entry, value)
        step.rotated += 1
    writer.publish()
    return done


def _opened(entry: VaultEntry, vault: Vault, step: Step) -> str | None:
    """Return the value of an entry, or None, having noted why it does not open."""
    try:
        return get_keyring().open(entry.place(vault.name), bytes(entry.ciphertext))
    except VaultUnavailable as error:
        step.problems.append(error.detail)
        return None
