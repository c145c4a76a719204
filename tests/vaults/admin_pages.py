"""Helpers of the admin tests of vaults."""

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from tests.queues.samples import spec
from vaults import worker_secrets

PAGES = "/admin/vaults/vault/"
NO_ENTRIES = {"entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}
ONE_ENTRY = {"entries-TOTAL_FORMS": "1", "entries-INITIAL_FORMS": "0", "entries-0-key": "TOKEN"}
PEM = "-----BEGIN KEY-----\nMIIEvg==\n-----END KEY-----"


def values() -> dict[str, str]:
    """Return the values that workers receive."""
    return dict(worker_secrets.get_worker_secrets(["api-keys"]).values)


def use_vault(*queues: str) -> None:
    """Save queues that use the vault."""
    for queue in queues:
        deployment = Deployment(git_url="https://h/r.git", startup_cmd="python main.py", vaults=("api-keys",))
        save_queue(spec=spec(queue, deployment=deployment), source=QueueSource.API)
