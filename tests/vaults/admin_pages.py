"""Helpers of the admin tests of vaults."""

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.admin_site.roles import create_role_groups
from tests.queues.samples import spec
from vaults import worker_secrets

PAGES = "/admin/vaults/vault/"
NO_ENTRIES = {"entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}
ONE_ENTRY = {"entries-TOTAL_FORMS": "1", "entries-INITIAL_FORMS": "0", "entries-0-key": "TOKEN"}
PEM = "-----BEGIN KEY-----\nMIIEvg==\n-----END KEY-----"


def values() -> dict[str, str]:
    """Return the values that workers receive."""
    return dict(worker_secrets.get_worker_secrets(["api-keys"]).values)


def of_role(role: str) -> Client:
    """Return the client of a user with a role."""
    create_role_groups(apps)
    user = User.objects.create_user(f"the-{role}", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def use_vault(*queues: str) -> None:
    """Save queues that use the vault."""
    for queue in queues:
        deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", vaults=("api-keys",))
        save_queue(spec=spec(queue, deployment=deployment), source=QueueSource.API)
