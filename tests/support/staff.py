"""Clients that are logged in as staff, without a password and without a record: tests begin with an empty audit."""

from django.apps import apps
from django.contrib.auth.models import AbstractUser, Group, User
from django.contrib.auth.signals import user_logged_in
from django.test import Client

from runqy.accounts.logins import record_logins
from runqy.admin_site.roles import create_role_groups


def staff_client(role: str | None, name: str = "") -> Client:
    """Return a client logged in as a user with a role, or without one."""
    return client_of(staff_user(role, name))


def staff_user(role: str | None, name: str = "") -> User:
    """Return the user of a role with a name, who is created if necessary."""
    create_role_groups(apps)  # the database is emptied after each test, of the groups of migrations too
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
