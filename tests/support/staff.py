"""Log in as a user with a role in tests."""

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client

from runqy.admin_site.roles import create_role_groups


def staff_client(role: str) -> Client:
    """Return a client logged in as a user with a role."""
    create_role_groups(apps)  # the database is emptied after each test, of the groups of migrations too
    user, is_new = User.objects.get_or_create(username=f"the-{role}", defaults={"is_staff": True})
    if is_new:
        user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client
