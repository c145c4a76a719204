"""Re-encryption of all entries, and of the server's own secrets, with the first master key, in batches of one
transaction each.

An interrupted rotation continues when it is run again. Concurrent readers find each entry under one of the keys,
and decrypt it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from runqy.audit.operations import record
from runqy.configuration.operations import Change, configuration_change
from runqy.errors import VaultUnavailable
from vaults.crypto import get_keyring, read_key_id
from vaults.models import CIPHERTEXT_HEAD, SealedSecret, Vault, VaultEntry
from vaults.operations import EntryWriter, record_change

BATCH = 50


@dataclass(slots=True, kw_only=True)
class RotationBatch:
    seen: int
    rotated: int = 0
    errors: list[str] = field(default_factory=list)
    """The errors of entries that cannot be decrypted. These are not changed."""


def count_outdated() -> int:
    """Return how many entries and secrets are not encrypted with the first key. Raise VaultLocked."""
    return _outdated().count() + len(_outdated_secrets())


def rotate_entries(*, batch: int = BATCH, dry_run: bool = False) -> Iterator[RotationBatch]:
    """Encrypt the entries that are not under the first key with it, one transaction a batch. Raise VaultLocked.

    Values and versions do not change, so workers are not notified. A batch is committed and published before it is
    yielded. `dry_run` only decrypts.
    """
    for ids in _batches(batch):
        yield _check(ids) if dry_run else _rotate(ids)
    secrets = _outdated_secrets()
    for start in range(0, len(secrets), batch):
        yield _rotate_secrets(secrets[start : start + batch], dry_run=dry_run)


def _check(ids: Sequence[int]) -> RotationBatch:
    result = RotationBatch(seen=len(ids))
    for entry in VaultEntry.objects.filter(pk__in=ids).select_related("vault"):
        result.rotated += _decrypt(entry, result) is not None
    return result


def _outdated() -> QuerySet[VaultEntry]:
    return VaultEntry.objects.annotate(head=CIPHERTEXT_HEAD).exclude(head=get_keyring().current_head).order_by("pk")


def _batches(size: int) -> Iterator[list[int]]:
    """Yield the ids of outdated entries, each once, also of those that stay outdated."""
    after = 0
    while ids := list(_outdated().filter(pk__gt=after).values_list("pk", flat=True)[:size]):
        yield ids
        after = ids[-1]


def _rotate(ids: Sequence[int]) -> RotationBatch:
    """Encrypt entries again in one transaction. Those that were rotated or deleted meanwhile are skipped."""
    result = RotationBatch(seen=len(ids))
    with configuration_change() as change:
        rows = _outdated().filter(pk__in=ids).select_related("vault").order_by("vault__name", "key")
        by_vault = [(vault, list(entries)) for vault, entries in groupby(rows, lambda entry: entry.vault)]
        done = [(vault, _rotate_in_vault(change, vault, entries, result)) for vault, entries in by_vault]
        for vault, keys_by_id in done:
            for old_id, keys in keys_by_id.items():
                new_id = get_keyring().first_id.hex()
                record_change("vault.rotated", vault.name, {"key_id": (old_id, new_id), "entries": (None, keys)})
    return result


def _rotate_in_vault(
    change: Change, vault: Vault, entries: Iterable[VaultEntry], result: RotationBatch
) -> dict[str, list[str]]:
    """Encrypt entries of a vault again; return their keys by the id of the master key that they had."""
    writer, done = EntryWriter(change, vault), dict[str, list[str]]()
    for entry in entries:
        value = _decrypt(entry, result)
        if value is None:
            continue
        done.setdefault(read_key_id(bytes(entry.ciphertext)).hex(), []).append(entry.key)
        writer.reencrypt(entry, value)
        result.rotated += 1
    writer.publish()
    return done


def _decrypt(entry: VaultEntry, result: RotationBatch) -> str | None:
    """Return the value of an entry; None if it cannot be decrypted, which is added to the result."""
    try:
        return entry.decrypt()
    except VaultUnavailable as error:
        result.errors.append(error.detail)
        return None


def _outdated_secrets() -> list[SealedSecret]:
    """Return the secrets of which any ciphertext is not under the first key. There are few."""
    is_current, rows = get_keyring().is_current, SealedSecret.objects.order_by("pk")
    return [row for row in rows if not all(is_current(each) for each in row.ciphertexts)]


def _rotate_secrets(rows: Sequence[SealedSecret], *, dry_run: bool) -> RotationBatch:
    """Encrypt secrets again in one transaction. Those that were changed meanwhile are skipped."""
    result, keyring = RotationBatch(seen=len(rows)), get_keyring()
    with transaction.atomic():
        done: list[str] = []
        for row in rows:
            try:
                texts = [keyring.decrypt(row.aad, each) for each in row.ciphertexts]
            except VaultUnavailable as error:
                result.errors.append(error.detail)
                continue
            ciphertext, *previous = [keyring.encrypt(row.aad, text) for text in texts]
            changed = {"ciphertext": ciphertext, "previous_ciphertext": previous[0] if previous else None}
            unchanged = SealedSecret.objects.filter(pk=row.pk, ciphertext=row.ciphertext)
            result.rotated += 1 if dry_run else unchanged.update(**changed, sealed_at=timezone.now())
            done.append(str(row))
        if done and not dry_run:
            changes = {"secrets": (None, done)}
            record(action="webhook.reencrypted", object_kind="webhook", object_name="all", changes=changes)
    return result
