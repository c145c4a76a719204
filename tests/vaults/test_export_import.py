"""Export and import of vaults."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from runqy.audit.models import AuditRecord
from runqy.config_sync.models import StoredDocument
from runqy.errors import ExportNotOpened, ExportUnreadable, PassphraseRefused, VaultAlreadyExists, VaultInvalid
from tests.vaults.test_vaults import SECRET
from vaults import export_file, operations, queries
from vaults.crypto import generate_master_key
from vaults.export_file import ExportedEntry, ExportedVault, decrypt_export, encrypt_export
from vaults.export_import import export_vault, import_vault, preview_import
from vaults.models import EntryVersion, Vault, VaultEntry
from vaults.queries import PreviewOutcome
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration")

PHRASE = "correct horse battery"


@pytest.fixture
def exported() -> bytes:
    """Return the export of a stored vault with three entries."""
    operations.create_vault(name="api-keys", description="for tests")
    operations.set_entries(vault="api-keys", values={"A": SECRET, "B": "2"})
    operations.set_entry(vault="api-keys", key="C", value="plain", is_secret=False)
    return export_vault(name="api-keys", passphrase=PHRASE)


def altered(content: bytes, **changes: Any) -> bytes:
    """Return a file with changed members, those of `kdf` and `cipher` by name."""
    file = json.loads(content)
    for name, value in changes.items():
        owner = file["kdf"] if name in file["kdf"] else file["cipher"] if name == "nonce" else file
        owner[name] = value
    return json.dumps(file).encode()


def sealed(*entries: ExportedEntry, name: str = "v") -> bytes:
    """Return an export with any entries."""
    return encrypt_export(ExportedVault(name=name, description="", exported_at="", entries=entries), PHRASE)


def outcomes(name: str = "") -> dict[str, str]:
    """Return the versions by key."""
    return {row.key: row.event for row in EntryVersion.objects.filter(vault=name).order_by("pk")}


def test_a_vault_is_imported_unchanged_under_another_master_key(exported: bytes, settings) -> None:
    operations.delete_vault(name="api-keys")
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    done = import_vault(content=exported, passphrase=PHRASE)

    assert (done.vault, done.is_new, done.keys(PreviewOutcome.ADDED)) == ("api-keys", True, ["A", "B", "C"])
    assert get_worker_secrets(["api-keys"]).values == {"A": SECRET, "B": "2", "C": "plain"}
    view = queries.get_vault_summary("api-keys")
    assert (view.description, [entry.is_secret for entry in view.entries]) == ("for tests", [True, True, False])
    assert outcomes("api-keys") == dict.fromkeys("ABC", "imported")
    assert len({entry.revision for entry in VaultEntry.objects.all()}) == 1


def test_a_file_contains_neither_values_nor_names(exported: bytes) -> None:
    assert SECRET.encode() not in exported
    assert b"api-keys" not in exported
    again = export_vault(name="api-keys", passphrase=PHRASE)
    assert json.loads(again)["data"] != json.loads(exported)["data"]


def test_the_format_matches_its_documentation(exported: bytes) -> None:
    file = json.loads(exported)
    head = {name: file[name] for name in ("format", "version", "kdf", "cipher")}
    salt, nonce = base64.b64decode(file["kdf"]["salt"]), base64.b64decode(file["cipher"]["nonce"])
    assert (head["format"], head["version"], head["kdf"]["name"]) == ("runqy-vault", 1, "scrypt")

    key = Scrypt(salt=salt, length=32, n=file["kdf"]["n"], r=8, p=1).derive(PHRASE.encode())
    opened = AESGCM(key).decrypt(
        nonce, base64.b64decode(file["data"]), json.dumps(head, separators=(",", ":")).encode()
    )

    assert json.loads(opened)["entries"][0] == {"key": "A", "value": SECRET, "is_secret": True}


def test_exports_and_imports_are_recorded_with_entry_keys(exported: bytes) -> None:
    operations.set_entry(vault="api-keys", key="D", value="4")
    operations.set_entry(vault="api-keys", key="B", value="3")
    operations.delete_entry(vault="api-keys", key="A")
    import_vault(content=exported, passphrase=PHRASE, replace=True)

    rows = AuditRecord.objects.filter(action__in=["vault.exported", "vault.imported"]).order_by("number")

    assert [(row.action, json.loads(row.changes)) for row in rows] == [
        ("vault.exported", {"entries": {"old": None, "new": ["A", "B", "C"]}}),
        (
            "vault.imported",
            {
                "added": {"old": None, "new": ["A"]},
                "changed": {"old": None, "new": ["B"]},
                "removed": {"old": None, "new": ["D"]},
            },
        ),
    ]


def test_an_existing_vault_is_replaced_only_with_replace(exported: bytes) -> None:
    operations.set_entry(vault="api-keys", key="D", value="4")
    before = StoredDocument.objects.get().revision

    with pytest.raises(VaultAlreadyExists, match="replace it, or use another name"):
        import_vault(content=exported, passphrase=PHRASE)
    assert StoredDocument.objects.get().revision == before

    done = import_vault(content=exported, passphrase=PHRASE, replace=True)
    assert (done.keys(PreviewOutcome.REMOVED), done.keys(PreviewOutcome.UNCHANGED)) == (["D"], ["A", "B", "C"])
    assert get_worker_secrets(["api-keys"]).values == {"A": SECRET, "B": "2", "C": "plain"}


def test_a_vault_is_imported_under_another_name(exported: bytes) -> None:
    import_vault(content=exported, passphrase=PHRASE, name="copy")

    assert get_worker_secrets(["copy"]).values == get_worker_secrets(["api-keys"]).values


def test_a_preview_shows_the_changes_of_an_import_and_makes_none(exported: bytes) -> None:
    operations.set_entry(vault="api-keys", key="B", value="3")
    operations.set_entry(vault="api-keys", key="C", value="plain", is_secret=True)
    operations.set_entry(vault="api-keys", key="D", value="4")
    operations.delete_entry(vault="api-keys", key="A")
    before = StoredDocument.objects.get().revision

    preview = preview_import(content=exported, passphrase=PHRASE)

    outcomes = {entry.key: entry.outcome.value for entry in preview.entries}
    assert outcomes == {"A": "added", "B": "changed", "C": "changed", "D": "removed"}
    assert (preview.is_new, SECRET in repr(preview)) == (False, False)
    assert StoredDocument.objects.get().revision == before
    compared = AuditRecord.objects.first()
    assert (compared.action, json.loads(compared.changes)) == (
        "vault.compared",
        {"entries": {"old": None, "new": ["B", "C"]}},
    )
    assert import_vault(content=exported, passphrase=PHRASE, replace=True) == preview
    assert preview_import(content=exported, passphrase=PHRASE, name="new").is_new
    assert not Vault.objects.filter(name="new").exists()


@pytest.mark.parametrize(
    "phrase", ["", "eleven char", "x" * 1025, "seven \u00bd\u00bd\u00bd"]
)  # three characters each once normalized
def test_a_short_passphrase_is_rejected(exported: bytes, phrase: str) -> None:
    # Normalized, each fraction is three characters.
    with pytest.raises(PassphraseRefused):
        export_vault(name="api-keys", passphrase=phrase)


def test_a_passphrase_is_normalized() -> None:
    content = encrypt_export(
        ExportedVault(name="v", description="", exported_at="", entries=()), "Gr\u00fc\u00dfe aus K\u00f6ln"
    )

    assert decrypt_export(content, "Gru\u0308\u00dfe aus Ko\u0308ln").name == "v"


def test_a_wrong_passphrase_and_an_altered_file_are_rejected(exported: bytes) -> None:
    data = bytearray(base64.b64decode(json.loads(exported)["data"]))
    data[0] ^= 1
    attempts = [
        (exported, "another passphrase"),
        (altered(exported, data=base64.b64encode(data).decode()), PHRASE),
        (altered(exported, salt=base64.b64encode(bytes(16)).decode()), PHRASE),
        (altered(exported, nonce=base64.b64encode(bytes(12)).decode()), PHRASE),
        (altered(exported, p=2), PHRASE),
        (altered(exported, data=""), PHRASE),
    ]
    for content, phrase in attempts:
        with pytest.raises(ExportNotOpened):
            preview_import(content=content, passphrase=phrase)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 1 << 30},
        {"n": 1 << 13},
        {"n": (1 << 17) + 1},
        {"n": -1},
        {"n": 10**30},
        {"n": 0},
        {"r": 1 << 20},
        {"r": 1},
        {"p": 1 << 29},
        {"n": 1 << 18, "p": 2},
        {"p": 0},
        {"salt": ""},
        {"nonce": "AAAA"},
        {"salt": "!"},
        {"version": 2},
        {"format": "zip"},
        {"name": "argon2id"},
        {"more": 1},
        {"kdf": None},
    ],
    ids=str,
)
def test_an_expensive_or_invalid_file_is_rejected_before_the_key_is_derived(
    exported: bytes, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_file, "Scrypt", None)

    with pytest.raises(ExportUnreadable):
        preview_import(content=altered(exported, **changes), passphrase=PHRASE)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 100_000, b"null", b'{"format":"\\ud800"}', b"x" * ((64 << 20) + 1)], ids=len
)
def test_an_invalid_file_is_rejected(content: bytes) -> None:
    with pytest.raises(ExportUnreadable):
        preview_import(content=content, passphrase=PHRASE)


def test_invalid_entries_are_not_imported() -> None:
    twice = [ExportedEntry(key="A", value=value, is_secret=True) for value in "12"]
    with pytest.raises(ExportUnreadable, match="twice"):
        import_vault(content=sealed(*twice), passphrase=PHRASE)
    with pytest.raises(VaultInvalid, match="PATH is reserved") as caught:
        import_vault(content=sealed(ExportedEntry(key="PATH", value=SECRET, is_secret=True)), passphrase=PHRASE)
    with pytest.raises(VaultInvalid):
        import_vault(content=sealed(name="a b"), passphrase=PHRASE)

    assert SECRET not in caught.value.detail
    assert not Vault.objects.exists()


def test_decrypted_content_that_is_no_vault_is_rejected_and_not_in_the_error() -> None:
    content = encrypt_export(SECRET, PHRASE)  # type: ignore[arg-type]

    with pytest.raises(ExportUnreadable) as caught:
        decrypt_export(content, PHRASE)

    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_an_export_keeps_usage_and_hosts_of_git_tokens() -> None:
    operations.create_vault(name="tokens")
    operations.set_entry(vault="tokens", key="PAT", value=SECRET, git_hosts=["github.com"])
    operations.set_entry(vault="tokens", key="MODEL", value="small")
    content = export_vault(name="tokens", passphrase=PHRASE)
    operations.set_entry(vault="tokens", key="PAT", value=SECRET, git_hosts=["gitlab.com"])
    operations.set_entry(vault="tokens", key="MODEL", value="small", git_hosts=["gitlab.com"])

    preview = preview_import(content=content, passphrase=PHRASE)
    import_vault(content=content, passphrase=PHRASE, replace=True)

    assert preview.keys(PreviewOutcome.CHANGED) == ["PAT"]
    entries = queries.get_vault_summary("tokens").entries
    assert {e.key: (e.usage, list(e.git_hosts)) for e in entries} == {
        "PAT": ("git_token", ["github.com"]),
        "MODEL": ("both", ["gitlab.com"]),  # not in the file
    }
