"""Vaults in the admin: values go in and never come out."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from tests.vaults.test_vaults import SECRET
from vaults import queries
from vaults.models import Vault
from vaults.opening import open_vaults

pytestmark = pytest.mark.usefixtures("configuration")

NO_ENTRIES = {"entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}
ONE_ENTRY = {"entries-TOTAL_FORMS": "1", "entries-INITIAL_FORMS": "0", "entries-0-key": "TOKEN"}


@pytest.fixture
def page(admin_client: Client) -> str:
    """Add a vault with a secret, as staff do, and return the path of its page."""
    form = {"name": "api-keys", "description": "d"} | ONE_ENTRY
    form |= {"entries-0-value": SECRET, "entries-0-is_secret": "on"}
    answer = admin_client.post("/admin/vaults/vault/add/", form)
    assert answer.status_code == 302, answer.content
    return f"/admin/vaults/vault/{Vault.objects.get().pk}/"


def existing(**changes: str) -> dict[str, str]:
    """Return the form of the vault with its entry, changed."""
    vault = Vault.objects.get()
    entry = {"id": vault.entries.get().pk, "vault": vault.pk, "key": "TOKEN", "is_secret": "on", "value": ""}
    form = ONE_ENTRY | {"entries-INITIAL_FORMS": "1", "description": "d"}
    return form | {f"entries-0-{name}": value for name, value in (entry | changes).items()}


def test_a_secret_that_staff_enter_reaches_workers_and_no_page(admin_client: Client, page: str) -> None:
    assert open_vaults(["api-keys"]).values == {"TOKEN": SECRET}

    pages = [page + "change/", page + "history/", page + "delete/", "/admin/vaults/vault/", "/admin/"]
    shown = "".join(admin_client.get(path).content.decode() for path in pages)

    assert "TOKEN" in shown
    assert SECRET not in shown
    assert SECRET not in "".join(LogEntry.objects.values_list("change_message", flat=True))


def test_a_form_with_an_error_does_not_show_the_secret_again(admin_client: Client) -> None:
    form = {"name": "b d"} | ONE_ENTRY | {"entries-0-value": SECRET}

    answer = admin_client.post("/admin/vaults/vault/add/", form)

    assert "a vault&#x27;s name has" in answer.content.decode()
    assert SECRET not in answer.content.decode()


def test_saving_without_a_new_value_keeps_the_old_one(admin_client: Client, page: str) -> None:
    answer = admin_client.post(page + "change/", existing() | {"description": "new"})

    assert answer.status_code == 302, answer.content
    assert Vault.objects.get().description == "new"
    assert open_vaults(["api-keys"]).values == {"TOKEN": SECRET}


def test_taking_the_mask_off_needs_a_new_value(admin_client: Client, page: str) -> None:
    refused = admin_client.post(page + "change/", existing(is_secret=""))
    assert "a value is not empty" in refused.content.decode()

    admin_client.post(page + "change/", existing(is_secret="", value="harmless"))

    assert [entry.value for entry in queries.get_vault("api-keys").entries] == ["harmless"]


def test_entries_and_vaults_are_deleted_through_the_operations(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(DELETE="on"))
    assert open_vaults(["api-keys"]).values == {}

    admin_client.post(page + "delete/", {"post": "yes"})

    assert queries.list_vaults() == []


def test_without_a_master_key_the_admin_says_so(admin_client: Client, settings) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    answer = admin_client.post("/admin/vaults/vault/add/", {"name": "api-keys"} | NO_ENTRIES, follow=True)

    assert "Vaults are locked" in answer.content.decode()
    assert not Vault.objects.exists()
