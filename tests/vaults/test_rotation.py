"""A new master key: every entry comes under it, whatever happens meanwhile, and workers notice nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from django.core.management import CommandError, call_command
from django.db import connection
from rich.console import Console

from queues.definitions import Deployment
from queues.models import Source
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from runqy.audit.queries import verify_chain
from runqy.broker import keys
from runqy.publication.republishing import compare_configuration
from tests.publication.support import away
from tests.queues.samples import spec
from tests.support.waiting import wait_until
from tests.vaults.test_vaults import fill
from vaults import operations
from vaults.crypto import Keyring, new_master_key
from vaults.management import progress
from vaults.models import EntryVersion, VaultEntry
from vaults.opening import open_vaults
from vaults.rotation import count_outdated, rotate_entries
from workers.operations import register_worker

pytestmark = pytest.mark.usefixtures("configuration")

ROOT = Path(__file__).parents[2]
ENTRIES = {f"KEY_{number}": f"value of {number}" for number in range(30)}


class Terminal(StringIO):
    """Something to write to that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def old_id(configuration: None, settings: Any) -> str:
    """Return the id of the master key before a new one is put in front of it; there are two vaults under the old."""
    fill()
    operations.set_entries(vault="api-keys", values=ENTRIES)
    fill("more", ONE="1", TWO="2")
    deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", vaults=("api-keys", "more"))
    save_queue(spec=spec("inference", deployment=deployment), source=Source.API)
    old = settings.RUNQY_VAULT_MASTER_KEY
    settings.RUNQY_VAULT_MASTER_KEY = f"{new_master_key()},{old}"
    return Keyring.parse(old).first_id.hex()


@pytest.fixture
def new_id(old_id: str, settings: Any) -> str:
    """Return the id of the key that is in front."""
    return Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()


@pytest.fixture
def _redis_is_away(old_id: str, settings: Any) -> None:
    """Take Redis away once everything is there."""
    settings.REDIS_TARGET = away()


def run(name: str, *args: str) -> str:
    """Run a command and return what it says."""
    out = StringIO()
    call_command(name, *args, stdout=out, stderr=out)
    return out.getvalue()


def refused(name: str, *args: str) -> str:
    """Run a command that fails and return all that it says."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(name, *args, stdout=out, stderr=out)
    return f"{out.getvalue()}{caught.value}"


def start(settings: Any, *args: str) -> subprocess.Popen[str]:
    """Start the command as a process of its own, on the tests' database."""
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor == "postgresql":
        url = f"postgresql://{database['USER']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    env = os.environ | {"DATABASE_URL": url, "RUNQY_VAULT_MASTER_KEY": settings.RUNQY_VAULT_MASTER_KEY}
    words = [sys.executable, "manage.py", "rotate_vault_key", *args]
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def values() -> dict[str, str]:
    """Return what a worker would be given."""
    return open_vaults(["api-keys", "more"], max_age_s=0).values


def test_a_rotation_leaves_values_versions_and_workers_as_they_were(
    old_id: str, new_id: str, settings: Any, redis: redis_py.Redis
) -> None:
    tokens, tag = redis.hgetall(keys.QUEUE_REVISIONS), VaultEntry.objects.first().vault.etag
    updated = list(VaultEntry.objects.values_list("pk", "version", "updated_at", "updated_by"))
    before = register_worker(queue="inference").revision

    said = run("rotate_vault_key")

    assert "32 entries were encrypted with the first key." in said
    assert f"The key {old_id} is not used any more: take it out of RUNQY_VAULT_MASTER_KEY." in said
    settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY.partition(",")[0]
    assert values() == ENTRIES | {"ONE": "1", "TWO": "2"}
    assert redis.hgetall(keys.QUEUE_REVISIONS) == tokens
    assert register_worker(queue="inference").revision == before
    assert list(VaultEntry.objects.values_list("pk", "version", "updated_at", "updated_by")) == updated
    assert VaultEntry.objects.first().vault.etag == tag
    assert compare_configuration().is_agreed
    assert "0 entries were encrypted" in run("rotate_vault_key")


def test_a_rotation_is_recorded_with_both_keys_and_the_entries(old_id: str, new_id: str) -> None:
    run("rotate_vault_key", "--batch", "20")

    rows = AuditRecord.objects.filter(action="vault.rotated").order_by("number")
    told = [(row.object_name, json.loads(row.changes)) for row in rows]
    assert [(name, len(changes["entries"]["new"])) for name, changes in told] == [
        ("api-keys", 20),
        ("api-keys", 10),
        ("more", 2),
    ]
    assert all(changes["key_id"] == {"old": old_id, "new": new_id} for _, changes in told)
    assert {(row.actor_kind, row.actor_name) for row in rows} == {("command", "rotate_vault_key")}
    assert EntryVersion.objects.filter(event="rotated", actor_name="rotate_vault_key").count() == 32
    assert set(EntryVersion.objects.filter(event="rotated").values_list("version", flat=True)) == {1}


def test_a_dry_run_opens_everything_and_changes_nothing(old_id: str) -> None:
    VaultEntry.objects.filter(key="KEY_7").update(ciphertext=b"altered")
    before = list(VaultEntry.objects.values_list("pk", "ciphertext", "revision"))

    said = refused("rotate_vault_key", "--dry-run")

    assert "31 entries would be encrypted with the first key; nothing was changed." in said
    assert "The entry api-keys/KEY_7" in said
    assert [
        (pk, bytes(text), at) for pk, text, at in VaultEntry.objects.values_list("pk", "ciphertext", "revision")
    ] == [(pk, bytes(text), at) for pk, text, at in before]


def test_an_entry_that_does_not_open_is_named_and_the_others_go_on(old_id: str, new_id: str) -> None:
    stranger = Keyring.parse(new_master_key())
    lost = VaultEntry.objects.get(key="KEY_7")
    VaultEntry.objects.filter(pk=lost.pk).update(ciphertext=stranger.seal(lost.place("api-keys"), "lost"))

    said = refused("rotate_vault_key")

    assert "31 entries were encrypted with the first key." in said
    assert f"The entry api-keys/KEY_7 was encrypted with the key {stranger.first_id.hex()}" in said
    assert f"The key {stranger.first_id.hex()} is still needed by 1 entries." in said
    assert f"The key {old_id} is not used any more" in said
    assert "1 entries do not open and stay as they are" in said
    assert count_outdated() == 1


def test_without_a_master_key_there_is_nothing_to_rotate(old_id: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    for command in ("rotate_vault_key", "vault_status", "verify_vaults"):
        assert "RUNQY_VAULT_MASTER_KEY" in refused(command)


@pytest.mark.usefixtures("_redis_is_away")
def test_without_redis_the_old_keys_are_not_given_up() -> None:
    said = refused("rotate_vault_key")

    assert count_outdated() == 0
    assert "keep those, and run this again" in said
    assert "not used any more" not in said


@pytest.mark.parametrize("number", ["0", "1001", "-1", "x"])
def test_a_batch_has_a_sensible_size(old_id: str, number: str) -> None:
    assert "a number from 1 to 1000" in refused("rotate_vault_key", f"--batch={number}")


def test_what_is_set_during_a_rotation_stays(old_id: str) -> None:
    steps = rotate_entries(batch=1)
    next(steps)
    operations.set_entry(vault="api-keys", key="KEY_29", value="new")
    operations.delete_entry(vault="api-keys", key="KEY_28")

    seen = sum(step.rotated for step in steps)

    assert seen == 32 - 3
    assert values() == {k: v for k, v in ENTRIES.items() if k != "KEY_28"} | {"KEY_29": "new", "ONE": "1", "TWO": "2"}


@pytest.mark.timeout(300)
def test_a_rotation_that_is_killed_goes_on_and_workers_register_all_the_while(
    old_id: str, settings: Any, redis: redis_py.Redis
) -> None:
    expected, seen = values(), list[object]()
    tokens = redis.hgetall(keys.QUEUE_REVISIONS)
    ended = threading.Event()

    def register() -> None:
        while not ended.wait(0.01):
            found = register_worker(queue="inference", worker_id="w")
            seen.append(found.revision if found.vaults == expected else found.vaults.keys())
        connection.close()

    registering = threading.Thread(target=register)
    registering.start()
    kills = 0
    try:
        while True:
            process, left = start(settings, "--batch", "1"), count_outdated()
            goal = left - random.randrange(4, 10)
            wait_until(lambda p=process, g=goal: p.poll() is not None or count_outdated() <= g, timeout_s=60)
            process.send_signal(signal.SIGKILL)
            said, _ = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL
            kills += 1
    finally:
        ended.set()
        registering.join()

    assert kills >= 2
    assert "is not used any more" in said
    assert set(seen) == {tokens[b"inference"].decode()}
    assert redis.hgetall(keys.QUEUE_REVISIONS) == tokens
    settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY.partition(",")[0]
    assert values() == expected
    assert "All 32 entries open" in run("verify_vaults")
    assert EntryVersion.objects.filter(event="rotated").count() == 32
    assert verify_chain().breaks == []


def test_status_tells_entries_by_key_and_what_is_published(old_id: str, new_id: str, redis: redis_py.Redis) -> None:
    assert json.loads(run("vault_status", "--json"))["removable"] == []
    next(iter(rotate_entries(batch=20)))

    told = json.loads(run("vault_status", "--json"))

    assert (told["vaults"], told["entries"], told["published"], told["differing"]) == (2, 32, "agrees", [])
    assert [(use["key_id"], use["entries"], use["published"]) for use in told["keys"]] == [
        (new_id, 20, 20),
        (old_id, 12, 12),
    ]
    assert told["keys"][1]["oldest"] < told["keys"][0]["oldest"]
    said = run("vault_status")
    assert "2 vaults, 32 entries" in said
    assert f"key {new_id} (encrypts): 20 entries, the oldest of " in said
    assert f"key {old_id} (old, run rotate_vault_key): 12 entries" in said
    assert "published copies: agree" in said


def test_status_names_keys_that_are_missing_and_copies_that_differ(
    old_id: str, settings: Any, redis: redis_py.Redis
) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = new_master_key()
    redis.hdel(keys.CONFIG_DOCUMENTS, "vault:more")

    said = run("vault_status")

    assert f"key {old_id} (MISSING in RUNQY_VAULT_MASTER_KEY): 32 entries" in said
    assert "published copies: differ: more" in said


@pytest.mark.usefixtures("_redis_is_away")
def test_status_goes_without_redis() -> None:
    assert "published copies: Redis cannot be reached" in run("vault_status")
    assert "cannot be reached" in refused("verify_vaults")


def test_verifying_names_what_does_not_open_in_the_database_and_in_redis(old_id: str, redis: redis_py.Redis) -> None:
    assert "All 32 entries open, in the database and as published." in run("verify_vaults")
    VaultEntry.objects.filter(key="ONE").update(ciphertext=b"altered")
    content = redis.hget(keys.CONFIG_DOCUMENTS, "vault:api-keys")
    redis.hset(keys.CONFIG_DOCUMENTS, "vault:api-keys", content.replace(b"KEY_7", b"KEY_8"))

    said = refused("verify_vaults")

    assert "The entry more/ONE (key 6c7465726564) is damaged" in said
    assert "The published copy of the vault api-keys was not signed by this server." in said
    assert "The published copy of the vault more is not as the database says." in said


def test_verifying_names_published_entries_that_lack_their_key(old_id: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = new_master_key()

    said = refused("verify_vaults")

    assert f"As published: The entry more/ONE was encrypted with the key {old_id}, which is not in" in said
    assert said.count("which is not in RUNQY_VAULT_MASTER_KEY") == 2 * 32


def test_on_a_terminal_a_bar_shows_how_far_it_is(old_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress, "Console", lambda: Console(file=terminal, force_terminal=True, width=80))

    call_command("rotate_vault_key", "--batch", "8", stdout=terminal)

    assert "32/32" in terminal.getvalue()
    assert "8 of 32 entries" not in terminal.getvalue()


def test_elsewhere_it_writes_lines(old_id: str) -> None:
    said = run("rotate_vault_key", "--batch", "8")

    assert said.splitlines()[:4] == [f"{seen} of 32 entries" for seen in (8, 16, 24, 32)]
