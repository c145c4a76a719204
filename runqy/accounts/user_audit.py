"""Audit records of users that management commands create or change. The admin records its own changes."""

from typing import Any

from django.contrib.auth.models import User
from django.db.models.signals import pre_save

from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.changes import diff
from runqy.audit.operations import record

_FIELDS = ("username", "first_name", "last_name", "email", "is_staff", "is_active", "is_superuser", "password")


def record_changes_by_commands() -> None:
    """Connect a receiver to Django's signal, because `createsuperuser` and `changepassword` call no code of runqy."""
    pre_save.connect(_record_change, sender=User, dispatch_uid="runqy.user_changed")


def _record_change(sender: object, instance: User, raw: bool, **_: Any) -> None:
    # Before it is saved, so that no change is without its record.
    if raw or current_actor().kind is not ActorKind.COMMAND:
        return
    stored = User.objects.filter(pk=instance.pk).first()
    changes = diff(_state(stored) if stored else {}, _state(instance), secrets=("password",))
    if changes:
        verb = "updated" if stored else "created"
        record(action=f"user.{verb}", object_kind="user", object_name=instance.get_username(), changes=changes)


def _state(user: User) -> dict[str, object]:
    return {name: value for name in _FIELDS if (value := getattr(user, name)) != ""}
