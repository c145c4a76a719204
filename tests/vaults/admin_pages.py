"""What the tests of vaults in the admin share."""

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client

from queues.definitions import Deployment
from queues.models import Source
from queues.operations import save_queue
from runqy.staff.roles import grant_roles
from tests.queues.samples import spec
from vaults import opening

PAGES = "/admin/vaults/vault/"
NO_ENTRIES = {"entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}
ONE_ENTRY = {"entries-TOTAL_FORMS": "1", "entries-INITIAL_FORMS": "0", "entries-0-key": "TOKEN"}
PEM = "-----BEGIN KEY-----\nMIIEvg==\n-----END KEY-----"
PASSPHRASE = "correct horse battery staple"


def values() -> dict[str, str]:
    """Return what workers get."""
    return dict(opening.open_vaults(["api-keys"]).values)


def of_role(role: str) -> Client:
    """Return a browser in which somebody of a role is logged in."""
    grant_roles(apps)
    user = User.objects.create_user(f"the-{role}", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def use_vault(*queues: str) -> None:
    """Let queues use the vault."""
    for queue in queues:
        deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", vaults=("api-keys",))
        save_queue(spec=spec(queue, deployment=deployment), source=Source.API)
