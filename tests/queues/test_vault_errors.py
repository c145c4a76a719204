"""Vault errors that keep workers of a queue from registering."""

from dataclasses import replace

import pytest

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import list_vault_errors
from tests.queues.samples import spec
from vaults.crypto import Keyring, generate_master_key
from vaults.entry_rules import EntryUsage
from vaults.operations import create_vault, delete_entry, delete_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

MISSING = "The vault gone does not exist: create it, or remove it from the queue."


def save(name: str, *vaults: str, git_token: str = "") -> None:
    deployment = Deployment(git_url="https://example.com/r.git", startup_cmd="python main.py")
    save_queue(
        spec=spec(name, deployment=replace(deployment, vaults=vaults, git_token=git_token)), source=QueueSource.API
    )


def fill(vault: str, *keys: str) -> None:
    create_vault(name=vault)
    for key in keys:
        usage = EntryUsage.BOTH
        set_entry(vault=vault, key=key, value="value-of-a-secret", usage=usage, git_hosts=["example.com"])


def test_a_queue_with_its_vaults_has_no_errors() -> None:
    fill("general", "TOKEN")
    save("plain")
    save("served", "general", git_token="vault://general/TOKEN")

    assert list_vault_errors(["plain", "served", "unheard_of"]) == {"plain": [], "served": [], "unheard_of": []}


def test_a_missing_vault_is_named_until_it_exists() -> None:
    save("mail", "gone")
    before = list_vault_errors(["mail"])

    create_vault(name="gone")

    assert before == {"mail": [MISSING]}
    assert list_vault_errors(["mail"]) == {"mail": []}


def test_a_deleted_vault_is_missing() -> None:
    fill("gone", "A")
    save("mail", "gone")

    delete_vault(name="gone")

    assert list_vault_errors(["mail"]) == {"mail": [MISSING]}


def test_a_missing_entry_of_the_git_token_is_named() -> None:
    fill("general", "TOKEN")
    save("mail", git_token="vault://general/TOKEN")
    save("post", git_token="vault://gone/TOKEN")

    delete_entry(vault="general", key="TOKEN")

    assert list_vault_errors(["mail", "post"]) == {
        "mail": ["The vault general has no entry TOKEN, the git token: set it, or change git_token."],
        "post": ["The vault gone with the git token does not exist: create it, or change git_token."],
    }


def test_each_entry_that_cannot_be_decrypted_is_named_once_with_its_key(settings) -> None:
    needed = Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()
    fill("general", "A", "B")
    save("mail", "general", "gone", git_token="vault://general/A")

    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()
    found = list_vault_errors(["mail"])["mail"]

    reason = f"was encrypted with the key {needed}, which is not in RUNQY_VAULT_MASTER_KEY."
    assert found == [f"The entry general/A {reason}", f"The entry general/B {reason}", MISSING]


def test_without_a_master_key_only_queues_with_vaults_have_errors(settings) -> None:
    fill("general", "A")
    save("mail", "general")
    save("plain")

    settings.RUNQY_VAULT_MASTER_KEY = ""
    found = list_vault_errors(["mail", "plain"])

    assert found["plain"] == []
    assert "RUNQY_VAULT_MASTER_KEY" in found["mail"][0]


def test_many_queues_decrypt_each_entry_once_without_the_database(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries
) -> None:
    for vault in ("one", "two"):
        fill(vault, "A", "B", "C")
    names = [f"q{n}" for n in range(30)]
    for name in names:
        save(name, "one", "two", git_token="vault://one/B")
    list_vault_errors([])
    opened = []
    plain = Keyring.decrypt
    monkeypatch.setattr(Keyring, "decrypt", lambda *args: opened.append(args[1]) or plain(*args))

    with django_assert_num_queries(0):
        found = list_vault_errors(names)
        list_vault_errors(names)

    assert found == {name: [] for name in names}
    assert len(opened) == 6
