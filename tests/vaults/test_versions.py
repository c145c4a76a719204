"""Versions of entries, and changes that expect a version."""

import threading
from collections.abc import Callable

import pytest
from django.db import connection

from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import StoredDocument
from runqy.errors import VaultEntryChanged, VaultEntryNotFound, VaultInvalid, VaultNotFound, VaultUnavailable
from tests.vaults.test_vaults import SECRET, fill
from vaults import operations, queries
from vaults.crypto import generate_master_key
from vaults.models import PublishedVault, VaultEntry
from vaults.operations import PreviewOutcome
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration")

SETTERS = 50
ADA = Actor(kind=ActorKind.USER, name="ada", id="7")


def put(value: str, version: int | None = None, *, is_secret: bool = True) -> VaultEntry:
    """Set the entry of these tests."""
    return operations.set_entry(vault="api-keys", key="A", value=value, is_secret=is_secret, expected_version=version)


def remove(version: int | None = None) -> None:
    """Delete it."""
    operations.delete_entry(vault="api-keys", key="A", expected_version=version)


def events() -> list[tuple[int, str]]:
    """Return the events of the entry, oldest first."""
    return [(row.version, row.event) for row in reversed(queries.list_versions("api-keys", "A"))]


def published_version() -> int:
    """Return the version that workers receive."""
    (entry,) = PublishedVault.decode(StoredDocument.objects.get(kind=DocumentKind.VAULT).body).entries
    return entry.version


def test_versions_count_each_value_and_continue_after_a_deletion() -> None:
    fill(A="1")
    assert put("1").version == 1
    assert put("1", is_secret=False).version == 1, "it is the same value"
    assert put("2").version == published_version() == 2
    remove()
    assert put("3").version == published_version() == 4
    operations.delete_vault(name="api-keys")
    fill(A="4")

    assert put("5").version == published_version() == 7
    assert events() == [(1, "set"), (2, "set"), (3, "deleted"), (4, "set"), (5, "deleted"), (6, "set"), (7, "set")]


def test_a_version_stores_actor_and_time_but_no_value() -> None:
    fill()
    with actor_context(ADA):
        entry = put(SECRET)

    (version,) = queries.list_versions("api-keys", "A")

    assert (version.actor_kind, version.actor_id, version.actor_name, entry.updated_by) == ("user", "7", "ada", "ada")
    assert version.at == entry.sealed_at
    assert VaultEntry.objects.get().updated_by == "ada"
    assert all(SECRET not in str(value) for value in vars(version).values())


def test_versions_are_listed_page_by_page() -> None:
    fill(A="1")
    for value in "234":
        put(value)

    first = queries.list_versions("api-keys", "A", limit=3)
    second = queries.list_versions("api-keys", "A", before=first[-1].pk, limit=3)

    assert [row.version for row in first + second] == [4, 3, 2, 1]


def test_an_unknown_entry_has_no_versions() -> None:
    fill(A="1")

    with pytest.raises(VaultNotFound):
        queries.list_versions("other", "A")
    with pytest.raises(VaultEntryNotFound, match="never had an entry 'B'"):
        queries.list_versions("api-keys", "B")


def test_the_same_value_under_a_new_master_key_is_a_rotation_without_a_notification(settings) -> None:
    fill(A="1")
    operations.set_entry(vault="api-keys", key="B", value="1")
    before = StoredDocument.objects.get()
    settings.RUNQY_VAULT_MASTER_KEY = f"{generate_master_key()},{settings.RUNQY_VAULT_MASTER_KEY}"

    put("1")

    after = StoredDocument.objects.get()
    assert events() == [(1, "set"), (1, "rotated")]
    assert (after.worker_revision, after.revision > before.revision) == (before.worker_revision, True)
    assert get_worker_secrets(["api-keys"]).values == {"A": "1", "B": "1"}


def test_an_older_ciphertext_of_the_same_value_cannot_be_decrypted(settings) -> None:
    fill(A="1")
    older = bytes(VaultEntry.objects.get().ciphertext)
    settings.RUNQY_VAULT_MASTER_KEY = f"{generate_master_key()},{settings.RUNQY_VAULT_MASTER_KEY}"
    put("1")
    VaultEntry.objects.update(ciphertext=older)

    with pytest.raises(VaultUnavailable, match="api-keys/A"):
        VaultEntry.objects.get().decrypt()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda: put("9", 1), "is at version 2; version 1 was expected", id="set an older one"),
        pytest.param(lambda: put("9", 3), "is at version 2; version 3 was expected", id="set one to come"),
        pytest.param(lambda: put("9", 0), "is at version 2; it was expected not to exist", id="create"),
        pytest.param(lambda: put("2", 1, is_secret=False), "is at version 2; version 1 was expected", id="unmask"),
        pytest.param(lambda: remove(1), "is at version 2; version 1 was expected", id="delete"),
    ],
)
def test_a_change_that_expects_another_version_is_rejected(change: Callable[[], object], message: str) -> None:
    fill(A="1")
    put("2")
    before = (events(), AuditRecord.objects.count(), StoredDocument.objects.get().revision)

    with pytest.raises(VaultEntryChanged, match=f"api-keys/A {message}") as caught:
        change()

    assert caught.value.present == 2
    assert get_worker_secrets(["api-keys"]).values == {"A": "2"}
    assert (events(), AuditRecord.objects.count(), StoredDocument.objects.get().revision) == before


def test_a_change_that_expects_the_present_version_is_made() -> None:
    fill()

    assert put("1", 0).version == 1
    assert put("2", 1).version == 2
    remove(2)
    with pytest.raises(VaultEntryChanged, match="does not exist; version 2 was expected"):
        remove(2)
    assert put("3", 0).version == 4


@pytest.mark.parametrize("start", [0, 1], ids=["create", "replace"])
def test_one_of_many_concurrent_changes_of_a_version_succeeds(start: int) -> None:
    fill(**({"A": "before"} if start else {}))
    begin, outcomes = threading.Barrier(SETTERS), []

    def set_mine(number: int) -> None:
        begin.wait()
        try:
            put(f"value-{number}", start)
            outcomes.append(number)
        except VaultEntryChanged as error:
            outcomes.append(-error.present)
        finally:
            connection.close()

    threads = [threading.Thread(target=set_mine, args=(number,)) for number in range(1, SETTERS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = [number for number in outcomes if number > 0]
    assert sorted(outcomes)[: SETTERS - 1] == [-(start + 1)] * (SETTERS - 1)
    assert get_worker_secrets(["api-keys"], max_age_s=0).values == {"A": f"value-{winner}"}
    assert len(events()) == start + 1


def test_many_entries_are_set_in_one_revision_or_not_at_all() -> None:
    fill(A="1", B="1")
    operations.set_entry(vault="api-keys", key="C", value="plain", is_secret=False)

    changed = operations.set_entries(vault="api-keys", values={"A": "1", "B": "2", "C": "open", "D": "4"})

    assert changed == ["B", "C", "D"]
    assert get_worker_secrets(["api-keys"]).values == {"A": "1", "B": "2", "C": "open", "D": "4"}
    rows = {entry.key: entry for entry in VaultEntry.objects.all()}
    assert rows["B"].revision == rows["C"].revision == rows["D"].revision == StoredDocument.objects.get().revision
    assert [key for key in rows if not rows[key].is_secret] == ["C"]
    with pytest.raises(VaultInvalid) as caught:
        operations.set_entries(vault="api-keys", values={"A": "9", "1X": SECRET, "PATH": "x", "E": ""})
    assert len(caught.value.errors) == 3
    assert SECRET not in caught.value.detail
    assert get_worker_secrets(["api-keys"]).values["A"] == "1"


def test_a_preview_shows_changes_without_values() -> None:
    fill(A=SECRET, B="1")

    preview = operations.compare_entries("api-keys", {"A": SECRET, "B": "2", "C": "3", "PATH": SECRET})

    assert [(entry.key, entry.outcome) for entry in preview] == [
        ("A", PreviewOutcome.UNCHANGED),
        ("B", PreviewOutcome.CHANGED),
        ("C", PreviewOutcome.ADDED),
        ("PATH", PreviewOutcome.REFUSED),
    ]
    assert SECRET not in repr(preview)
    assert get_worker_secrets(["api-keys"]).values == {"A": SECRET, "B": "1"}
    assert AuditRecord.objects.get(action="vault.compared").changes == '{"entries":{"new":["A","B"],"old":null}}'


def test_fingerprints_are_equal_only_for_equal_values_and_depend_on_the_secret_key(settings) -> None:
    fill(A=SECRET, B=SECRET, C="another")
    fill("other", A=SECRET)

    def prints(vault: str) -> list[str]:
        return [queries.get_entry_value(entry).fingerprint for entry in VaultEntry.objects.filter(vault__name=vault)]

    first, second, third = prints("api-keys")
    assert first == second == prints("other")[0]
    assert first != third
    settings.SECRET_KEY = "another" * 10
    assert prints("other")[0] != first
