"""What staff are told about queues whose vaults keep workers out."""

from dataclasses import replace

import pytest

from queues.definitions import Deployment
from queues.models import Source
from queues.operations import save_queue
from queues.queries import queue_vault_problems
from tests.queues.samples import spec
from vaults.crypto import Keyring, new_master_key
from vaults.names import EntryUsage
from vaults.operations import create_vault, delete_entry, delete_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

MISSING = "The vault gone does not exist: create it, or take it off the queue."


def save(name: str, *vaults: str, git_token: str = "") -> None:
    deployment = Deployment(git_url="https://example.com/r.git", startup_cmd="python main.py")
    save_queue(spec=spec(name, deployment=replace(deployment, vaults=vaults, git_token=git_token)), source=Source.API)


def fill(vault: str, *keys: str) -> None:
    create_vault(name=vault)
    for key in keys:
        usage = EntryUsage.BOTH
        set_entry(vault=vault, key=key, value="value-of-a-secret", usage=usage, git_hosts=["example.com"])


def test_a_queue_without_trouble_has_none() -> None:
    fill("general", "TOKEN")
    save("plain")
    save("served", "general", git_token="vault://general/TOKEN")

    assert queue_vault_problems(["plain", "served", "unheard_of"]) == {"plain": [], "served": [], "unheard_of": []}


def test_a_vault_that_is_missing_is_named_until_it_is_there() -> None:
    save("mail", "gone")
    before = queue_vault_problems(["mail"])

    create_vault(name="gone")

    assert before == {"mail": [MISSING]}
    assert queue_vault_problems(["mail"]) == {"mail": []}


def test_a_vault_that_was_deleted_is_missing() -> None:
    fill("gone", "A")
    save("mail", "gone")

    delete_vault(name="gone")

    assert queue_vault_problems(["mail"]) == {"mail": [MISSING]}


def test_the_entry_of_the_git_token_is_named_where_it_is_missing() -> None:
    fill("general", "TOKEN")
    save("mail", git_token="vault://general/TOKEN")
    save("post", git_token="vault://gone/TOKEN")

    delete_entry(vault="general", key="TOKEN")

    assert queue_vault_problems(["mail", "post"]) == {
        "mail": ["The vault general has no entry TOKEN, the git token: set it, or change git_token."],
        "post": ["The vault gone with the git token does not exist: create it, or change git_token."],
    }


def test_every_entry_that_does_not_open_is_named_once_with_its_key(settings) -> None:
    needed = Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()
    fill("general", "A", "B")
    save("mail", "general", "gone", git_token="vault://general/A")

    settings.RUNQY_VAULT_MASTER_KEY = new_master_key()
    found = queue_vault_problems(["mail"])["mail"]

    reason = f"was encrypted with the key {needed}, which is not in RUNQY_VAULT_MASTER_KEY."
    assert found == [f"The entry general/A {reason}", f"The entry general/B {reason}", MISSING]


def test_without_a_master_key_only_queues_with_vaults_are_in_trouble(settings) -> None:
    fill("general", "A")
    save("mail", "general")
    save("plain")

    settings.RUNQY_VAULT_MASTER_KEY = ""
    found = queue_vault_problems(["mail", "plain"])

    assert found["plain"] == []
    assert "RUNQY_VAULT_MASTER_KEY" in found["mail"][0]


def test_many_queues_open_each_entry_once_and_ask_no_database(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries
) -> None:
    for vault in ("one", "two"):
        fill(vault, "A", "B", "C")
    names = [f"q{n}" for n in range(30)]
    for name in names:
        save(name, "one", "two", git_token="vault://one/B")
    queue_vault_problems([])
    opened = []
    plain = Keyring.open
    monkeypatch.setattr(Keyring, "open", lambda *args: opened.append(args[1]) or plain(*args))

    with django_assert_num_queries(0):
        found = queue_vault_problems(names)
        queue_vault_problems(names)

    assert found == {name: [] for name in names}
    assert len(opened) == 6
