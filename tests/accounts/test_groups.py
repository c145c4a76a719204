"""A group's page offers what pages look for, and takes nothing away unseen."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client

from runqy.admin_site.roles import ROLES
from tests.support.staff import create_roles

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def group(configuration: None) -> Group:
    """Return a group with a permission that no page of ours looks for."""
    create_roles()
    group = Group.objects.create(name="night shift")
    group.permissions.add(Permission.objects.get(codename="view_session"))
    return group


def test_a_group_offers_the_permissions_of_an_admin_and_its_own(admin_client: Client, group: Group) -> None:
    page = admin_client.get(f"/admin/auth/group/{group.pk}/change/")

    offered = page.context["adminform"].form.fields["permissions"].queryset
    spelled = {f"{row.content_type.app_label}.{row.codename}" for row in offered}
    assert spelled == ROLES[-1].permissions | {"sessions.view_session"}
    assert "Can view API key" in page.content.decode()


def test_saving_keeps_selected_permissions(admin_client: Client, group: Group) -> None:
    ticked = list(group.permissions.values_list("pk", flat=True))
    added = Permission.objects.get(codename="pause_queue")

    form = {"name": "night shift", "permissions": [*ticked, added.pk]}
    response = admin_client.post(f"/admin/auth/group/{group.pk}/change/", form)

    assert response.status_code == 302, response.content
    assert {row.codename for row in group.permissions.all()} == {"view_session", "pause_queue"}
