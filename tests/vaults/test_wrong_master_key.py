"""A server whose master key does not open what is stored: it changes no values, and reports it."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import update_alerts
from runqy.broker.broker import Broker
from runqy.errors import VaultUnavailable
from tests.api.client import ApiClient, problem
from tests.support.secret_leaks import SUITE
from tests.vaults.admin_pages import ONE_ENTRY, PAGES
from tests.vaults.test_vaults import fill
from vaults import operations, queries
from vaults.crypto import Keyring, generate_master_key
from vaults.models import Vault, VaultEntry
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")


@pytest.fixture
def right_key(configuration: None, settings) -> str:
    """Return the master key of a vault; the setting has another one."""
    fill(A=SUITE.secret(), B="2")
    right, settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY, generate_master_key()
    return right


def test_no_value_is_encrypted_unless_the_key_decrypts_the_stored_ones(
    right_key: str, settings, admin_client: Client
) -> None:
    wrong, settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY, right_key
    values = get_worker_secrets(["api-keys"]).values
    settings.RUNQY_VAULT_MASTER_KEY = wrong
    operations.create_vault(name="other")
    client, page = ApiClient(), f"{PAGES}{Vault.objects.get(name='other').pk}/change/"
    form = {"name": "other", "description": ""} | ONE_ENTRY | {"entries-0-value": "x"}

    refused = [
        client.put("/api/vaults/api-keys/entries/A", {"value": "new"}),
        client.post("/api/vaults/api-keys/entries", {"key": "C", "value": "new"}),
        client.post("/api/vaults/other/entries", {"key": "A", "value": "new"}),
    ]
    in_the_admin = admin_client.post(page, form)
    with pytest.raises(VaultUnavailable):
        operations.set_entries(vault="api-keys", values={"C": "new"})

    assert {(response.status_code, problem(response)["code"]) for response in refused} == {(503, "vault_unavailable")}
    detail = problem(refused[0])["detail"]
    assert f"master key {Keyring.parse(right_key).first_id.hex()} (vault api-keys)" in detail
    assert "Add it to RUNQY_VAULT_MASTER_KEY" in in_the_admin.content.decode()
    assert VaultEntry.objects.count() == 2
    settings.RUNQY_VAULT_MASTER_KEY = right_key
    assert get_worker_secrets(["api-keys"]).values == values


def test_entries_of_a_lost_key_are_deleted_and_set_again(right_key: str) -> None:
    for key in "AB":
        operations.delete_entry(vault="api-keys", key=key)

    operations.set_entry(vault="api-keys", key="A", value="new")

    assert get_worker_secrets(["api-keys"]).values == {"A": "new"}


def test_a_key_that_is_being_rotated_out_stays_usable(right_key: str, settings) -> None:
    settings.RUNQY_VAULT_MASTER_KEY += f",{right_key}"

    operations.set_entry(vault="api-keys", key="B", value="3")

    assert get_worker_secrets(["api-keys"]).values["B"] == "3"
    assert queries.find_key_error() == ""


def test_readiness_the_start_and_an_alert_say_so(right_key: str, settings, broker: Broker) -> None:
    out = StringIO()

    call_command("check_vault_keys", stderr=out)
    update_alerts(broker)
    ready = json.loads(ApiClient().get("/readyz?verbose").content)

    assert "cannot be decrypted: they were encrypted with the master key" in out.getvalue()
    alert = Alert.objects.get(kind=AlertKind.VAULT_UNREADABLE, opened_at__isnull=False)
    assert (alert.queue, "(vault api-keys)" in alert.message) == ("", True)
    assert ready["status"] == "degraded"
    assert "vault_status" in next(check["detail"] for check in ready["checks"] if check["check"] == "vaults")

    settings.RUNQY_VAULT_MASTER_KEY = right_key
    update_alerts(broker)
    alert.refresh_from_db()
    assert alert.resolved_at is not None
