"""Clients that are logged in as staff, without a password and without a record: tests begin with an empty audit."""

from functools import cache
from typing import Any

from django.apps import apps
from django.contrib.auth.models import AbstractUser, Group, User
from django.contrib.auth.signals import user_logged_in
from django.test import Client

from runqy.accounts.logins import record_logins
from runqy.admin_site.roles import ROLES, create_role_groups


@cache
def _rows_of_roles() -> tuple[list[Group], list[Any]]:
    """Return the groups of the roles and their permissions, as the first call of this process creates them."""
    create_role_groups(apps)
    names = [role.name for role in ROLES]
    permissions = Group.permissions.through.objects.filter(group__name__in=names)
    return list(Group.objects.filter(name__in=names)), list(permissions)


def create_roles() -> None:
    """Create the groups of the roles: the database is emptied after each test, of the groups of migrations too."""
    groups, permissions = _rows_of_roles()
    if not Group.objects.filter(name=groups[0].name).exists():
        Group.objects.bulk_create(groups)
        Group.permissions.through.objects.bulk_create(permissions)


def staff_client(role: str | None, name: str = "") -> Client:
    """Return a client logged in as a user with a role, or without one."""
    return client_of(staff_user(role, name))


def staff_user(role: str | None, name: str = "") -> User:
    """Return the user of a role with a name, who is created if necessary."""
    create_roles()
    user, is_new = User.objects.get_or_create(username=name or f"the-{role}", defaults={"is_staff": True})
    if is_new and role:
        user.groups.add(Group.objects.get(name=role))
    return user


def client_of(user: AbstractUser) -> Client:
    """Return a client logged in as a user."""
    client = Client()
    user_logged_in.disconnect(dispatch_uid="runqy.login")
    client.force_login(user)
    record_logins()
    return client
