"""Keys from the shell."""

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key
from runqy.accounts.queries import authenticate
from runqy.audit.models import AuditRecord

pytestmark = pytest.mark.usefixtures("configuration")


def run(*words: str) -> str:
    """Run a command and return what it prints."""
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_keys_are_listed_with_what_they_may_do_and_whether_they_still_may() -> None:
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


def test_a_key_is_revoked_once_by_whoever_runs_the_command() -> None:
    shop = create_api_key(name="shop", role="client")

    assert run("revoke_api_key", str(shop.row.pk)) == f"revoked shop ({shop.row.prefix}…)\n"

    assert authenticate(shop.plain) is None
    assert AuditRecord.objects.get(action="api_key.revoked").actor_name == "revoke_api_key"
    with pytest.raises(CommandError, match="was revoked before"):
        run("revoke_api_key", str(shop.row.pk))
    with pytest.raises(CommandError, match="No such key"):
        run("revoke_api_key", "99")


def test_the_commands_of_django_that_make_users_are_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a-Password-1")
    run("createsuperuser", "--no-input", "--username", "carol", "--email", "c@example.com")
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "a-Password-2")
    run("changepassword", "carol")

    rows = AuditRecord.objects.order_by("number")
    assert [(row.actor_name, row.action, row.object_name) for row in rows] == [
        ("createsuperuser", "user.created", "carol"),
        ("changepassword", "user.updated", "carol"),
    ]
    assert User.objects.get().check_password("a-Password-2")
    assert "a-Password" not in "".join(row.changes for row in rows)


def test_a_user_that_was_not_made_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    User.objects.create_user("carol")
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a-Password-1")

    with pytest.raises(CommandError):
        run("createsuperuser", "--no-input", "--username", "carol", "--email", "c@example.com")

    assert not AuditRecord.objects.exists()
