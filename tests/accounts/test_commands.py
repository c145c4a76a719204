"""Keys from the shell."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import actor_context, command_actor
from runqy.audit.models import AuditRecord
from tests.accounts.authenticating import authenticate

pytestmark = pytest.mark.usefixtures("configuration")


def run(*words: str) -> str:
    """Run a command and return what it prints."""
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_a_missing_key_is_reported_until_one_is_accepted(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.RUNQY_API_KEY = settings.RUNQY_WORKER_API_KEY = settings.RUNQY_CLIENT_API_KEY = ""

    def is_reported() -> bool:
        call_command("check_api_keys")
        return "There is no API key" in capsys.readouterr().err

    created = create_api_key(name="shop", role="client")
    assert not is_reported()
    revoke_api_key(key_id=created.row.pk)
    assert is_reported()
    settings.RUNQY_CLIENT_API_KEY = "a-key-of-the-environment-0123456789"
    assert not is_reported()


def test_keys_are_listed_with_their_rights_and_states() -> None:
    now = timezone.now()
    shop = create_api_key(name="shop", role="client", queues=["mail"])
    create_api_key(name="old", role="admin", expires_at=now + timedelta(days=1))
    create_api_key(name="new", role="worker", expires_at=now + timedelta(days=2))
    ApiKey.objects.filter(name="old").update(expires_at=now)
    run("revoke_api_key", str(shop.row.pk))

    lines = [line.split("\t") for line in run("list_api_keys").splitlines()]

    assert [(role, queues, state.split(" 2")[0], name) for _, _, role, queues, state, name, _ in lines] == [
        ("worker", "all", "valid until", "new"),
        ("admin", "all", "expired", "old"),
        ("client", "mail", "revoked", "shop"),
    ]
    assert lines[2][:2] == [str(shop.row.pk), f"{shop.row.prefix}…"]


def test_a_key_is_revoked_once_with_the_command_as_actor() -> None:
    shop = create_api_key(name="shop", role="client")

    assert run("revoke_api_key", str(shop.row.pk)) == f"revoked shop ({shop.row.prefix}…)\n"

    assert authenticate(shop.plain) is None
    assert AuditRecord.objects.get(action="api_key.revoked").actor_name == "revoke_api_key"
    with pytest.raises(CommandError, match="is already revoked"):
        run("revoke_api_key", str(shop.row.pk))
    with pytest.raises(CommandError, match="API key not found"):
        run("revoke_api_key", str(shop.row.pk + 1))


def test_djangos_commands_for_users_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a-Password-1")
    with actor_context(command_actor("createsuperuser")):  # as manage.py does
        run("createsuperuser", "--no-input", "--username", "carol", "--email", "c@example.com")
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "a-Password-2")
    with actor_context(command_actor("changepassword")):
        run("changepassword", "carol")

    created, changed = AuditRecord.objects.order_by("number")
    assert (created.actor_name, created.action, created.object_name) == ("createsuperuser", "user.created", "carol")
    assert json.loads(created.changes)["is_superuser"] == {"old": None, "new": True}
    assert (changed.actor_name, changed.action, changed.object_name) == ("changepassword", "user.updated", "carol")
    assert json.loads(changed.changes) == {"password": "changed"}
    assert User.objects.get().check_password("a-Password-2")
    assert "a-Password" not in created.changes
    assert "pbkdf2" not in created.changes


def test_a_user_that_was_not_created_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    User.objects.create_user("carol")
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a-Password-1")

    with pytest.raises(CommandError), actor_context(command_actor("createsuperuser")):
        run("createsuperuser", "--no-input", "--username", "carol", "--email", "c@example.com")

    assert not AuditRecord.objects.exists()
