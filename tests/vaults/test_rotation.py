"""Rotation of the master key, and the commands around it."""

import json
import os
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

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from runqy.broker import keys
from runqy.configuration.publishing import compare_configuration
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.vaults.test_vaults import fill
from vaults import operations
from vaults.crypto import Keyring, generate_master_key
from vaults.models import EntryVersion, VaultEntry
from vaults.rotation import count_outdated, rotate_entries
from vaults.worker_secrets import get_worker_secrets
from workers.operations import register_worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]

ROOT = Path(__file__).parents[2]
ENTRIES = {f"KEY_{number}": f"value of {number}" for number in range(30)}
# Ends by itself at a random moment after 4 to 9 batches, however late its parent would be.
KILLED = """
import os, random, signal, sys, threading
import django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
django.setup()
from django.core.management import execute_from_command_line
from vaults.management.commands import rotate_vault_key

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def rotate_until_killed(rotate=rotate_vault_key.rotate_entries, **options):
    last = random.randrange(4, 10)
    for number, step in enumerate(rotate(**options), start=1):
        yield step
        if number == last:
            threading.Timer(random.uniform(0, 0.05), kill).start()
        if number == last + 3:
            threading.Event().wait()

rotate_vault_key.rotate_entries = rotate_until_killed
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def old_id(configuration: None, settings: Any) -> str:
    """Return the id of the master key of two vaults; a new key is first in the setting."""
    fill()
    operations.set_entries(vault="api-keys", values=ENTRIES)
    fill("more", ONE="1", TWO="2")
    deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", vaults=("api-keys", "more"))
    save_queue(spec=spec("inference", deployment=deployment), source=QueueSource.API)
    old = settings.RUNQY_VAULT_MASTER_KEY
    settings.RUNQY_VAULT_MASTER_KEY = f"{generate_master_key()},{old}"
    return Keyring.parse(old).first_id.hex()


@pytest.fixture
def new_id(old_id: str, settings: Any) -> str:
    """Return the id of the first key."""
    return Keyring.parse(settings.RUNQY_VAULT_MASTER_KEY).first_id.hex()


@pytest.fixture
def _redis_is_away(old_id: str, settings: Any) -> None:
    """Make Redis unavailable."""
    settings.REDIS_TARGET = away()


def run(name: str, *args: str) -> str:
    """Run a command and return its output."""
    out = StringIO()
    call_command(name, *args, stdout=out, stderr=out)
    return out.getvalue()


def refused(name: str, *args: str) -> str:
    """Run a command that fails and return all its output."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(name, *args, stdout=out, stderr=out)
    return f"{out.getvalue()}{caught.value}"


def rotate(settings: Any, *program: str) -> tuple[int, str]:
    """Run the command as a process of its own, on the tests' database. Return its exit code and output."""
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor == "postgresql":
        url = f"postgresql://{database['USER']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    env = os.environ | {"DATABASE_URL": url, "RUNQY_VAULT_MASTER_KEY": settings.RUNQY_VAULT_MASTER_KEY}
    words = [sys.executable, *program, "rotate_vault_key", "--batch", "1"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def values() -> dict[str, str]:
    """Return the secrets that a worker would receive."""
    return get_worker_secrets(["api-keys", "more"], max_age_s=0).values


def test_a_rotation_changes_no_values_or_versions_and_notifies_no_workers(
    old_id: str, new_id: str, settings: Any, redis: redis_py.Redis
) -> None:
    tokens, tag = redis.hgetall(keys.QUEUE_REVISIONS), VaultEntry.objects.first().vault.etag
    updated = list(VaultEntry.objects.values_list("pk", "version", "updated_at", "updated_by"))
    before = register_worker(queue="inference").revision

    output = run("rotate_vault_key")

    assert "32 entries were encrypted with the first key." in output
    assert f"The key {old_id} is no longer used: remove it from RUNQY_VAULT_MASTER_KEY." in output
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
    recorded = [(row.object_name, json.loads(row.changes)) for row in rows]
    assert [(name, len(changes["entries"]["new"])) for name, changes in recorded] == [
        ("api-keys", 20),
        ("api-keys", 10),
        ("more", 2),
    ]
    assert all(changes["key_id"] == {"old": old_id, "new": new_id} for _, changes in recorded)
    assert {(row.actor_kind, row.actor_name) for row in rows} == {("command", "rotate_vault_key")}
    assert EntryVersion.objects.filter(event="rotated", actor_name="rotate_vault_key").count() == 32
    assert set(EntryVersion.objects.filter(event="rotated").values_list("version", flat=True)) == {1}


def test_a_dry_run_decrypts_everything_and_changes_nothing(old_id: str) -> None:
    VaultEntry.objects.filter(key="KEY_7").update(ciphertext=b"altered")
    before = list(VaultEntry.objects.values_list("pk", "ciphertext", "revision"))

    output = refused("rotate_vault_key", "--dry-run")

    assert "31 entries would be encrypted with the first key; nothing was changed." in output
    assert "The entry api-keys/KEY_7" in output
    assert [
        (pk, bytes(text), at) for pk, text, at in VaultEntry.objects.values_list("pk", "ciphertext", "revision")
    ] == [(pk, bytes(text), at) for pk, text, at in before]


def test_an_entry_that_cannot_be_decrypted_is_reported_and_the_others_are_rotated(old_id: str, new_id: str) -> None:
    other_keyring = Keyring.parse(generate_master_key())
    lost = VaultEntry.objects.get(key="KEY_7")
    VaultEntry.objects.filter(pk=lost.pk).update(ciphertext=other_keyring.encrypt(lost.aad, "lost"))

    output = refused("rotate_vault_key")

    assert "31 entries were encrypted with the first key." in output
    assert f"The entry api-keys/KEY_7 was encrypted with the key {other_keyring.first_id.hex()}" in output
    assert f"The key {other_keyring.first_id.hex()} is still needed by 1 entries." in output
    assert f"The key {old_id} is no longer used" in output
    assert "1 entries cannot be decrypted and are unchanged" in output
    assert count_outdated() == 1


def test_without_a_master_key_a_rotation_fails(old_id: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    for command in ("rotate_vault_key", "vault_status", "verify_vaults"):
        assert "RUNQY_VAULT_MASTER_KEY" in refused(command)


@pytest.mark.usefixtures("_redis_is_away")
def test_without_redis_the_old_keys_are_not_reported_as_unused() -> None:
    output = refused("rotate_vault_key")

    assert count_outdated() == 0
    assert "keep them, and run the command again" in output
    assert "no longer used" not in output


@pytest.mark.parametrize("number", ["0", "1001", "-1", "x"])
def test_the_batch_size_is_validated(old_id: str, number: str) -> None:
    assert "a number from 1 to 1000" in refused("rotate_vault_key", f"--batch={number}")


def test_a_value_set_during_a_rotation_is_kept(old_id: str) -> None:
    steps = rotate_entries(batch=1)
    next(steps)
    operations.set_entry(vault="api-keys", key="KEY_29", value="new")
    operations.delete_entry(vault="api-keys", key="KEY_28")

    seen = sum(step.rotated for step in steps)

    assert seen == 32 - 3
    assert values() == {k: v for k, v in ENTRIES.items() if k != "KEY_28"} | {"KEY_29": "new", "ONE": "1", "TWO": "2"}


@pytest.mark.timeout(300)
def test_a_killed_rotation_continues_and_workers_can_register_meanwhile(
    old_id: str, settings: Any, redis: redis_py.Redis
) -> None:
    expected, seen = values(), list[object]()
    tokens = redis.hgetall(keys.QUEUE_REVISIONS)
    ended = threading.Event()

    def register() -> None:
        while not ended.wait(0.1):
            found = register_worker(queue="inference", worker_id="w")
            seen.append(found.revision if found.vaults == expected else found.vaults.keys())
        connection.close()

    registering = threading.Thread(target=register)
    registering.start()
    try:
        for _ in range(2):
            left = count_outdated()
            assert rotate(settings, "-c", KILLED)[0] == -signal.SIGKILL
            assert 0 < count_outdated() < left
        code, output = rotate(settings, "manage.py")
    finally:
        ended.set()
        registering.join()

    assert code == 0
    assert "is no longer used" in output
    assert set(seen) == {tokens[b"inference"].decode()}
    assert redis.hgetall(keys.QUEUE_REVISIONS) == tokens
    settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY.partition(",")[0]
    assert values() == expected
    assert "All 32 entries can be decrypted" in run("verify_vaults")
    assert EntryVersion.objects.filter(event="rotated").count() == 32


def test_the_status_shows_entries_by_key_and_the_published_copies(
    old_id: str, new_id: str, redis: redis_py.Redis
) -> None:
    assert json.loads(run("vault_status", "--json"))["removable"] == []
    next(iter(rotate_entries(batch=20)))

    status = json.loads(run("vault_status", "--json"))

    assert (status["vaults"], status["entries"], status["published"], status["differing"]) == (2, 32, "agrees", [])
    assert [(use["key_id"], use["entries"], use["published"]) for use in status["keys"]] == [
        (new_id, 20, 20),
        (old_id, 12, 12),
    ]
    assert status["keys"][1]["oldest"] < status["keys"][0]["oldest"]
    output = run("vault_status")
    assert "2 vaults, 32 entries" in output
    assert f"key {new_id} (encrypts): 20 entries, the oldest of " in output
    assert f"key {old_id} (old, run rotate_vault_key): 12 entries" in output
    assert "published copies: agree" in output


def test_the_status_shows_missing_keys_and_differing_copies(old_id: str, settings: Any, redis: redis_py.Redis) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()
    redis.hdel(keys.CONFIG_DOCUMENTS, "vault:more")

    output = run("vault_status")

    assert f"key {old_id} (MISSING in RUNQY_VAULT_MASTER_KEY): 32 entries" in output
    assert "published copies: differ: more" in output


@pytest.mark.usefixtures("_redis_is_away")
def test_the_status_works_without_redis() -> None:
    assert "published copies: Redis is unavailable" in run("vault_status")
    assert "cannot be reached" in refused("verify_vaults")


def test_verify_reports_decrypt_errors_of_the_database_and_of_redis(old_id: str, redis: redis_py.Redis) -> None:
    assert "All 32 entries can be decrypted, in the database and as published." in run("verify_vaults")
    VaultEntry.objects.filter(key="ONE").update(ciphertext=b"altered")
    content = redis.hget(keys.CONFIG_DOCUMENTS, "vault:api-keys")
    redis.hset(keys.CONFIG_DOCUMENTS, "vault:api-keys", content.replace(b"KEY_7", b"KEY_8"))

    output = refused("verify_vaults")

    assert "The entry more/ONE (key 6c7465726564) is damaged" in output
    assert "The published copy of the vault api-keys has an invalid signature." in output
    assert "The published copy of the vault more differs from the database." in output


def test_verify_reports_published_entries_whose_key_is_missing(old_id: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    output = refused("verify_vaults")

    assert f"As published: The entry more/ONE was encrypted with the key {old_id}, which is not in" in output
    assert output.count("which is not in RUNQY_VAULT_MASTER_KEY") == 2 * 32


def test_other_outputs_get_a_line_for_each_tenth(old_id: str) -> None:
    output = run("rotate_vault_key", "--batch", "8")

    assert output.splitlines()[:4] == [f"{seen} of 32 entries" for seen in (8, 16, 24, 32)]
