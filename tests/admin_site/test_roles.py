"""The roles that a migration makes."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission

from runqy.admin_site.roles import ROLES, create_role_groups
from tasks.models import Task

pytestmark = pytest.mark.django_db


def permissions(group: str) -> set[str]:
    """Return what a group may do."""
    rows = Permission.objects.filter(group__name=group).select_related("content_type")
    return {f"{row.content_type.app_label}.{row.codename}" for row in rows}


def test_each_role_has_exactly_its_permissions() -> None:
    create_role_groups(apps)

    assert {group.name: permissions(group.name) for group in Group.objects.all()} == {
        role.name: set(role.permissions) for role in ROLES
    }


def test_granting_again_removes_other_permissions() -> None:
    create_role_groups(apps)
    Group.objects.get(name="viewer").permissions.add(Permission.objects.get(codename="delete_user"))

    create_role_groups(apps)

    assert "auth.delete_user" not in permissions("viewer")


def test_viewers_change_nothing_and_see_no_payload() -> None:
    (viewer,) = (role for role in ROLES if role.name == "viewer")

    assert {permission.split(".")[1].split("_")[0] for permission in viewer.permissions} == {"view"}
    assert "tasks.view_payload" not in viewer.permissions


def test_every_role_includes_the_views_of_the_role_below() -> None:
    viewer = ROLES[0].permissions

    assert all(viewer < role.permissions for role in ROLES[1:])
    assert all(role.permissions <= ROLES[-1].permissions for role in ROLES)


def test_permissions_of_tasks_have_the_names_that_the_model_gives_them() -> None:
    Permission.objects.all().delete()

    create_role_groups(apps)

    names = dict(Permission.objects.filter(content_type__app_label="tasks").values_list("codename", "name"))
    assert dict(Task._meta.permissions).items() <= names.items()
