"""Vaults and entries, and the secrets that workers receive."""

from typing import Any

import pytest
import redis as redis_py
from django.core.management import call_command

from runqy.broker import keys
from runqy.configuration import operations as config_operations
from runqy.configuration.models import StoredDocument
from runqy.errors import (
    VaultAlreadyExists,
    VaultEntryNotFound,
    VaultInvalid,
    VaultLocked,
    VaultNotFound,
    VaultUnavailable,
)
from tests.support.secret_leaks import SUITE
from vaults import operations, queries
from vaults.crypto import Keyring, generate_master_key, get_keyring
from vaults.models import VaultEntry, mask
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration")

SECRET = SUITE.secret(tail="rs")


def fill(vault: str = "api-keys", **values: str) -> None:
    """Create a vault with entries."""
    operations.create_vault(name=vault)
    for key, value in values.items():
        operations.set_entry(vault=vault, key=key, value=value)


def token_for(git_url: str, reference: str = "vault://api-keys/A") -> str:
    """Return the git token that workers receive for a repository."""
    return get_worker_secrets([], git_token=reference, git_url=git_url).git_token


def test_workers_get_the_values_in_order_a_later_vault_overriding() -> None:
    fill("first", A="1", B="1")
    fill("second", B="2", C="2")

    assert get_worker_secrets(["first", "second"]).values == {"A": "1", "B": "2", "C": "2"}
    assert get_worker_secrets(["second", "first"]).values["B"] == "1"
    assert get_worker_secrets([]).values == {}


def test_decrypting_does_not_query_the_database(django_assert_num_queries) -> None:
    operations.create_vault(name="api-keys")
    operations.set_entry(vault="api-keys", key="A", value="1", git_hosts=["github.com"])
    get_worker_secrets([])
    get_worker_secrets(["api-keys"])

    with django_assert_num_queries(0):
        assert token_for("https://github.com/a/b.git") == "1"


def test_neither_redis_nor_the_database_holds_the_value(redis: redis_py.Redis) -> None:
    fill(A=SECRET)

    published = b"".join(redis.hgetall(keys.CONFIG_DOCUMENTS).values())
    stored = bytes(VaultEntry.objects.get().ciphertext) + bytes(StoredDocument.objects.get().body)
    assert SECRET.encode() not in published + stored


def test_secrets_are_masked_and_other_values_are_not() -> None:
    fill(A=SECRET, B="short")
    operations.set_entry(vault="api-keys", key="C", value="plain", is_secret=False)

    seen = {entry.key: entry.displayed_value for entry in VaultEntry.objects.all()}

    assert seen == {"A": "sk****rs", "B": "****", "C": "plain"}
    assert (mask("12345678901"), mask("123456789012")) == ("****", "12****12")


def test_setting_the_same_value_again_does_not_notify_workers() -> None:
    fill(A="1")
    before = StoredDocument.objects.get().revision

    operations.set_entry(vault="api-keys", key="A", value="1")
    operations.save_vault(name="api-keys", description="for people")
    assert StoredDocument.objects.get().revision == before

    operations.set_entry(vault="api-keys", key="A", value="2")
    assert StoredDocument.objects.get().revision > before


def test_setting_a_value_after_a_rotation_encrypts_with_the_new_key(settings) -> None:
    fill(A="1")
    old = settings.RUNQY_VAULT_MASTER_KEY
    settings.RUNQY_VAULT_MASTER_KEY = f"{generate_master_key()},{old}"

    assert get_worker_secrets(["api-keys"]).values == {"A": "1"}
    operations.set_entry(vault="api-keys", key="A", value="1")
    settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY.split(",")[0]

    assert get_worker_secrets(["api-keys"]).values == {"A": "1"}


@pytest.mark.parametrize("rolled_back", ["ciphertext", "entry of another life"])
def test_an_older_ciphertext_in_the_row_cannot_be_decrypted(rolled_back: str) -> None:
    fill(A="1")
    old = bytes(VaultEntry.objects.get().ciphertext)
    if rolled_back == "ciphertext":
        operations.set_entry(vault="api-keys", key="A", value="2")
    else:
        operations.delete_vault(name="api-keys")
        fill(A="2")
    VaultEntry.objects.update(ciphertext=old)

    with pytest.raises(VaultUnavailable, match="api-keys/A"):
        VaultEntry.objects.get().decrypt()


def test_swapped_ciphertexts_cannot_be_decrypted_and_there_is_no_partial_result() -> None:
    fill(A="1", B="2", C="3")
    first, second = VaultEntry.objects.filter(key__in="AB")
    first.ciphertext, second.ciphertext = second.ciphertext, first.ciphertext
    first.save()
    second.save()
    operations.set_entry(vault="api-keys", key="D", value="4")  # publishes the vault

    with pytest.raises(VaultUnavailable, match=rf"api-keys/A .*{get_keyring().first_id.hex()}"):
        get_worker_secrets(["api-keys"])


def test_without_a_master_key_vaults_are_locked(settings) -> None:
    fill(A="1")
    settings.RUNQY_VAULT_MASTER_KEY = ""

    attempts = [
        lambda: operations.create_vault(name="b"),
        lambda: operations.delete_vault(name="api-keys"),
        lambda: operations.set_entry(vault="api-keys", key="A", value="2"),
        lambda: operations.delete_entry(vault="api-keys", key="A"),
        lambda: get_worker_secrets(["api-keys"]),
        lambda: get_worker_secrets([], git_token="vault://api-keys/A"),
        lambda: VaultEntry.objects.get().decrypt(),
        queries.list_vaults,
    ]
    for attempt in attempts:
        with pytest.raises(VaultLocked):
            attempt()
    assert not queries.is_unlocked()
    assert get_worker_secrets([]).values == {}


def test_with_the_wrong_master_key_the_error_names_entry_and_key(settings) -> None:
    fill(A="1")
    needed = Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    with pytest.raises(VaultUnavailable, match=f"api-keys/A .*{needed}"):
        get_worker_secrets(["api-keys"])


def test_the_first_of_many_entries_that_cannot_be_decrypted_are_named(settings) -> None:
    fill(**{f"KEY_{number}": "1" for number in range(8)})
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    with pytest.raises(VaultUnavailable) as caught:
        get_worker_secrets(["api-keys"])
    *named, rest = caught.value.errors
    assert [f"api-keys/KEY_{number} " in sentence for number, sentence in enumerate(named)] == [True] * 3
    assert rest == "5 more entries of api-keys cannot be decrypted."


def test_missing_vaults_and_entries_are_named() -> None:
    fill(A="1")

    with pytest.raises(VaultUnavailable, match="The vault other does not exist"):
        get_worker_secrets(["api-keys", "other"])
    with pytest.raises(VaultUnavailable, match="api-keys has no entry B"):
        get_worker_secrets([], git_token="vault://api-keys/B")
    operations.delete_vault(name="api-keys")
    with pytest.raises(VaultUnavailable, match="api-keys"):
        get_worker_secrets(["api-keys"])


@pytest.mark.parametrize("name", ["", "-a", "_a", "a.b", "a b", "a/b", "é", "a" * 65, "a\n"])
def test_an_invalid_vault_name_is_rejected(name: str) -> None:
    with pytest.raises(VaultInvalid):
        operations.create_vault(name=name)


@pytest.mark.parametrize("key", ["", "1A", "A-B", "A B", "PATH", "LD_PRELOAD", "RUNQY_API_KEY", "É", "A\n"])
def test_an_invalid_entry_key_is_rejected(key: str) -> None:
    fill()

    with pytest.raises(VaultInvalid):
        operations.set_entry(vault="api-keys", key=key, value="x")


def test_a_value_may_have_64_kib() -> None:
    fill(A="x" * (64 << 10))

    assert len(get_worker_secrets(["api-keys"]).values["A"]) == 64 << 10


@pytest.mark.parametrize("value", ["", "secret" + "x" * (64 << 10), "secret\0", "secret\ud800"])
def test_an_invalid_value_is_rejected_and_not_in_the_error(value: str) -> None:
    fill()

    with pytest.raises(VaultInvalid) as caught:
        operations.set_entry(vault="api-keys", key="A", value=value)

    assert "secret" not in caught.value.detail


def test_missing_and_existing_vaults_are_errors() -> None:
    fill(A="1")

    with pytest.raises(VaultAlreadyExists):
        operations.create_vault(name="api-keys")
    with pytest.raises(VaultNotFound):
        operations.set_entry(vault="other", key="A", value="1")
    with pytest.raises(VaultNotFound):
        operations.delete_vault(name="other")
    with pytest.raises(VaultEntryNotFound):
        operations.delete_entry(vault="api-keys", key="B")


def test_vaults_are_listed_with_the_number_of_their_entries() -> None:
    fill("b", A="1", B="2")
    fill("a")
    operations.delete_entry(vault="b", key="A")

    assert [(vault.name, vault.entry_count) for vault in queries.list_vaults()] == [("a", 0), ("b", 1)]


def test_the_command_prints_a_valid_master_key(capsys) -> None:
    call_command("generate_vault_key")

    Keyring.parse(capsys.readouterr().out.strip())


def test_setting_an_entry_returns_its_own_version_although_another_change_follows_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operations.create_vault(name="shared")
    publish = config_operations.publish

    def change_concurrently(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(config_operations, "publish", publish)
        operations.set_entry(vault="shared", key="TOKEN", value="second")
        return publish(*args, **options)

    monkeypatch.setattr(config_operations, "publish", change_concurrently)

    first = operations.set_entry(vault="shared", key="TOKEN", value="first")

    assert (first.version, VaultEntry.objects.get(key="TOKEN").version) == (1, 2)
