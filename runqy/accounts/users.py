"""Rules for changing users: users cannot grant more than they have, and one admin always remains.

Also what users choose for themselves, and audit records of users that management commands create or change. The admin
records its own changes.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, tzinfo
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.signals import pre_save

from runqy.accounts.models import UserSettings
from runqy.admin_site.roles import ROLES
from runqy.audit.actors import ActorKind, current_actor
from runqy.audit.operations import diff, record
from runqy.core.api_keys import Role
from runqy.core.formats.timestamps import get_zone

SUPERUSER = "superuser"
_ADMIN = "admin"
_PERMISSIONS = {role.name: role.permissions for role in ROLES}
_NEEDED_FOR_KEYS = {
    Role.VIEWER: _PERMISSIONS["viewer"],
    Role.METRICS: _PERMISSIONS["viewer"],
    Role.CLIENT: _PERMISSIONS["operator"],
    Role.OPERATOR: _PERMISSIONS["operator"],
    Role.CONFIGURATOR: _PERMISSIONS["configurator"],
    Role.WORKER: _PERMISSIONS["admin"],  # its workers get the values of vaults
    Role.ADMIN: _PERMISSIONS["admin"],
}
"""The permissions that a user needs for a personal key of a role."""
_SUPERUSER_DESCRIPTION = "Full access; the only role that can create and change superusers."


def get_role(user: User) -> str:
    """Return a user's role: `superuser`, the group of a role, or empty if the user has none.

    Prefetched groups are used.
    """
    if user.is_superuser:
        return SUPERUSER
    groups = {group.name for group in user.groups.all()}
    held = [role.name for role in ROLES if role.name in groups]
    return held[-1] if held else ""


def grantable_roles(manager: User) -> Mapping[str, str]:
    """Return the roles that a user may assign, each with its description."""
    needed = _permissions_of_roles()
    granted = {role.name: role.description for role in ROLES if may_grant(manager, needed[role.name])}
    return granted | ({SUPERUSER: _SUPERUSER_DESCRIPTION} if manager.is_superuser else {})


def may_grant(manager: User, permissions: Iterable[str]) -> bool:
    """Return whether a user has all of these permissions (`app.codename`), and may therefore grant them."""
    return manager.is_superuser or manager.get_all_permissions().issuperset(permissions)


def list_key_roles(user: User) -> list[Role]:
    """Return the roles of keys that give no more rights than a user has; none if the user may not log in."""
    if not (user.is_active and user.is_staff):
        return []
    return [role for role, permissions in _NEEDED_FOR_KEYS.items() if may_grant(user, permissions)]


def may_manage(manager: User, user: User) -> bool:
    """Return whether a manager has all permissions of a user, active or not, and may therefore change that user."""
    if user.is_superuser:
        return manager.is_superuser
    return may_grant(manager, _permission_names(Permission.objects.filter(Q(group__user=user) | Q(user=user))))


def list_assignable_permissions(group: Group) -> QuerySet[Permission]:
    """Return the permissions of the role admin, and others that the group has already."""
    pairs = [permission.split(".") for permission in ROLES[-1].permissions]
    wanted = Q(content_type__app_label__in={app for app, _ in pairs}, codename__in={codename for _, codename in pairs})
    found = Permission.objects.filter(wanted | Q(group=group) if group.pk else wanted)
    order = ("content_type__app_label", "content_type__model", "codename")
    return found.select_related("content_type").order_by(*order).distinct()


def assign_role(user: User, role: str) -> None:
    """Move a saved user into the group of a role. Groups that are not roles are kept."""
    user.groups.remove(*Group.objects.filter(name__in=[known.name for known in ROLES]))
    if role != SUPERUSER:
        user.groups.add(Group.objects.get(name=role))


def validate_role_change(manager: User, user: User, *, role: str, is_active: bool) -> str | None:
    """Return why a user must not get a role or be deactivated; None if it is allowed."""
    if user.pk == manager.pk and not is_active:
        return "You cannot deactivate yourself; ask another admin."
    if user.pk == manager.pk and role != get_role(user):
        return "You cannot change your own role; ask another admin."
    if not (is_active and role in (SUPERUSER, _ADMIN)) and _is_last_admin(user):
        return f"{user} is the last active admin; create another one first."
    return None


def validate_user_deletion(manager: User, user: User) -> str | None:
    """Return why a user must not be deleted; None if it is allowed."""
    if user.pk == manager.pk:
        return "You cannot delete yourself; ask another admin."
    if not may_manage(manager, user):
        return f"{user} has permissions that you do not have."
    if _is_last_admin(user):
        return f"{user} is the last active admin; create another one first."
    return None


def _is_last_admin(user: User) -> bool:
    """Return whether there is no other active admin. Locks the admins until the transaction ends."""
    admins = User.objects.filter(Q(is_superuser=True) | Q(groups__name=_ADMIN), is_active=True, is_staff=True)
    locked = User.objects.select_for_update().filter(pk__in=admins.values("pk")).order_by("pk")
    with transaction.atomic():  # pages that only show the result have no transaction
        return list(locked.values_list("pk", flat=True)) == [user.pk]


def _permissions_of_roles() -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {role.name: set() for role in ROLES}
    rows = Permission.objects.filter(group__name__in=found)
    for group, app, codename in rows.values_list("group__name", "content_type__app_label", "codename"):
        found[group].add(f"{app}.{codename}")
    return found


def _permission_names(permissions: Iterable[Permission]) -> set[str]:
    rows = permissions.values_list("content_type__app_label", "codename")  # type: ignore[attr-defined]
    return {f"{app}.{codename}" for app, codename in rows}


def find_time_zone(user: Any) -> str:
    """Return the name of the zone that a user chose; empty if there is none."""
    return UserSettings.objects.filter(user=user).values_list("time_zone", flat=True).first() or ""


def get_time_zone(user: Any) -> tzinfo:
    """Return the zone in which a user reads times: UTC without a choice, or if the zone is no longer known."""
    with suppress(ValueError):
        return get_zone(find_time_zone(user))
    return UTC


def save_time_zone(user: User, name: str) -> None:
    before = find_time_zone(user)
    if before == name:
        return
    with transaction.atomic():
        UserSettings.objects.update_or_create(user=user, defaults={"time_zone": name})
        changes = diff({"time_zone": before}, {"time_zone": name})
        record(action="user.updated", object_kind="user", object_name=user.get_username(), changes=changes)


def remember_browser_zone(user: User, name: str) -> None:
    """Choose the zone of the browser for a user who has not chosen one."""
    with suppress(ValueError):
        UserSettings.objects.get_or_create(user=user, defaults={"time_zone": get_zone(name).key})


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
