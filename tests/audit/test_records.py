"""What is recorded about a change, and that it goes with the change."""

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from queues.definitions import Deployment, LimitOverrides
from queues.models import QueueSource
from queues.operations import delete_definition, save_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from runqy.configuration.operations import configuration_change
from runqy.errors import QueueNameTaken
from tests.queues.samples import spec
from tests.vaults.test_vaults import SECRET
from vaults.operations import create_vault, delete_entry, delete_vault, save_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

USER = Actor(kind=ActorKind.KEY, name="shop", id="7", address="203.0.113.9", request_id="r-1")


def audited() -> list[tuple[str, str, dict[str, Any]]]:
    """Return what was recorded, in order."""
    rows = AuditRecord.objects.order_by("number")
    return [(row.action, row.object_name, json.loads(row.changes)) for row in rows]


def last() -> tuple[str, str, dict[str, Any]]:
    """Return what was recorded last."""
    return audited()[-1]


def test_a_record_has_actor_action_and_address() -> None:
    with actor_context(USER):
        record(action="queue.paused", object_kind="queue", object_name="mail", changes={"paused": (False, True)})

    row = AuditRecord.objects.get()
    assert (row.actor_kind, row.actor_name, row.actor_id) == ("key", "shop", "7")
    assert (row.address, row.request_id) == ("203.0.113.9", "r-1")
    assert audited() == [("queue.paused", "mail", {"paused": {"old": False, "new": True}})]


def test_without_an_actor_the_server_is_recorded() -> None:
    with actor_context(USER):
        pass
    record(action="queue.paused", object_kind="queue", object_name="mail")

    assert AuditRecord.objects.get().actor_kind == "server"


def test_a_queue_is_recorded_field_by_field() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    action, name, changes = last()
    assert (action, name) == ("queue.created", "mail")
    assert changes["deployment.branch"] == {"old": None, "new": "main"}

    save_queue(spec=spec("mail", "high:9", limits=LimitOverrides(max_retry=7)), source=QueueSource.FILE)
    assert last() == (
        "queue.updated",
        "mail",
        {
            "limits.max_retry": {"old": None, "new": 7},
            "priority": {"old": 5, "new": 9},
            "sub_queues": {"old": [], "new": [{"name": "high", "priority": 9}]},
        },
    )

    with configuration_change() as change:
        delete_definition(change, "mail")
    assert last()[:2] == ("queue.deleted", "mail")
    assert last()[2]["limits.max_retry"] == {"old": 7, "new": None}


def test_a_queue_saved_as_it_was_is_not_recorded() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    save_queue(spec=spec("mail"), source=QueueSource.FILE)

    assert len(audited()) == 1


def test_values_of_environment_variables_are_not_kept() -> None:
    def save(**env_vars: str) -> None:
        deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", env_vars=env_vars)
        save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)

    save(TOKEN="sk-of-no-vault-1", LEVEL="info")
    save(TOKEN="sk-of-no-vault-2", LEVEL="info")

    assert last()[2] == {"deployment.env_vars.TOKEN": "changed"}
    assert "sk-of-no-vault" not in str(audited())


def test_vaults_are_recorded_without_their_values() -> None:
    create_vault(name="api-keys", description="d")
    save_vault(name="api-keys", description="d")
    save_vault(name="api-keys", description="e")
    set_entry(vault="api-keys", key="TOKEN", value=SECRET)
    set_entry(vault="api-keys", key="TOKEN", value=SECRET)
    set_entry(vault="api-keys", key="TOKEN", value="plain", is_secret=False)
    delete_entry(vault="api-keys", key="TOKEN")
    set_entry(vault="api-keys", key="A", value="1")
    delete_vault(name="api-keys")

    assert audited() == [
        ("vault.created", "api-keys", {"description": {"old": None, "new": "d"}}),
        ("vault.updated", "api-keys", {"description": {"old": "d", "new": "e"}}),
        ("vault_entry.set", "api-keys/TOKEN", {"is_secret": {"old": None, "new": True}, "value": "changed"}),
        ("vault_entry.set", "api-keys/TOKEN", {"is_secret": {"old": True, "new": False}, "value": "changed"}),
        ("vault_entry.deleted", "api-keys/TOKEN", {"value": "changed"}),
        ("vault_entry.set", "api-keys/A", {"is_secret": {"old": None, "new": True}, "value": "changed"}),
        (
            "vault.deleted",
            "api-keys",
            {"description": {"old": "e", "new": None}, "entries": {"old": ["A"], "new": None}},
        ),
    ]


def test_keys_are_recorded_without_their_secrets() -> None:
    created = create_api_key(name="shop", role="client", queues=["mail"])
    revoke_api_key(key_id=created.row.pk)

    (first, name, stated), (second, same_name, ended) = audited()
    assert (first, second, name, same_name) == ("api_key.created", "api_key.revoked", *[f"{created.row.pk} shop"] * 2)
    assert (stated["role"]["new"], stated["queues"]["new"]) == ("client", ["mail"])
    assert ended["revoked_at"]["old"] is None
    assert created.plain not in str(audited())
    assert created.row.digest not in str(audited())


def test_a_change_that_is_undone_leaves_no_record() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    with pytest.raises(QueueNameTaken):
        save_queue(spec=spec("mail_default"), source=QueueSource.API)
    with transaction.atomic():
        record(action="queue.paused", object_kind="queue", object_name="mail")
        transaction.set_rollback(True)

    assert len(audited()) == 1


def test_a_change_that_cannot_be_recorded_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("queues.operations.record", fail)

    with pytest.raises(ZeroDivisionError):
        save_queue(spec=spec("mail"), source=QueueSource.API)
    monkeypatch.undo()
    save_queue(spec=spec("mail"), source=QueueSource.API, is_new=True)


def test_texts_that_no_column_can_store_are_cut_and_escaped() -> None:
    record(
        action="task.deleted",
        object_kind="task",
        object_name="a\0b\ud800é" + "x" * 500,
        changes={"x": ("\0", "\ud800")},
    )

    assert AuditRecord.objects.get().object_name.startswith(r"a\x00b\ud800éxx")


def test_commands_are_named_with_the_account_that_ran_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "carol")
    (tmp_path / "password").write_text("a-password")

    call_command("create_api_key", "shop")
    call_command("ensure_admin", str(tmp_path / "password"))
    call_command("ensure_admin", str(tmp_path / "password"))

    rows = AuditRecord.objects.order_by("number")
    assert [(row.actor_kind, row.actor_name, row.actor_id) for row in rows] == [
        ("command", "create_api_key", "carol"),
        ("command", "ensure_admin", "carol"),
    ]
