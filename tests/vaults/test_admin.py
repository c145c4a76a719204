"""Vaults in the admin, whose pages never render secrets."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client

from runqy.audit.models import AuditRecord
from runqy.configuration.models import StoredDocument
from tests.configuration.support import away
from tests.support.secret_leaks import SUITE
from tests.support.staff import staff_client
from tests.vaults.admin_pages import NO_ENTRIES, ONE_ENTRY, PAGES, PEM, use_vault, values
from tests.vaults.test_access_log import deliver, live
from tests.vaults.test_vaults import SECRET
from vaults import queries
from vaults.access_log import store_deliveries
from vaults.crypto import generate_master_key
from vaults.models import Vault, VaultEntry
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")


def existing(**changes: str) -> dict[str, Any]:
    """Return the changed form data of the vault with its entry."""
    vault = Vault.objects.get()
    row = vault.entries.get()
    entry = {"id": row.pk, "vault": vault.pk, "key": "TOKEN", "is_secret": "on", "value": "", "known_version": "1"}
    form = ONE_ENTRY | {"entries-INITIAL_FORMS": "1", "description": "d"}
    return form | {f"entries-0-{name}": value for name, value in (entry | changes).items()}


def test_a_secret_reaches_workers_and_no_page(admin_client: Client, page: str) -> None:
    assert values() == {"TOKEN": SECRET}

    paths = [page + "change/", page + "history/", page + "delete/", page + "bulk-edit/", page + "deliveries/", PAGES]
    paths += [page + "export/", page + "entries/TOKEN/", "/admin/"]
    content = "".join(admin_client.get(path, follow=True).content.decode() for path in paths)

    assert "TOKEN" in content
    assert SECRET not in content
    kept = [*LogEntry.objects.values_list("change_message"), *AuditRecord.objects.values_list("changes")]
    assert SECRET not in str(kept) + str([session.get_decoded() for session in Session.objects.all()])


def test_a_secret_is_shown_masked_with_its_fingerprint_and_version(admin_client: Client, page: str) -> None:
    content = admin_client.get(page + "change/").content.decode()

    stored = queries.get_entry_value(VaultEntry.objects.get())
    assert f">{stored.value}</code>" in content
    assert f"#{stored.fingerprint}</code>" in content
    assert "version 1" in content
    assert f'href="{page}entries/TOKEN/"' in content


def test_a_form_with_an_error_does_not_render_the_secret(admin_client: Client) -> None:
    form = {"name": "b d"} | ONE_ENTRY | {"entries-0-value": SECRET}

    response = admin_client.post(f"{PAGES}add/", form).content.decode()

    assert "Use 1 to 64" in response
    assert "enter them once more" in response
    assert SECRET not in response


def test_an_empty_value_keeps_the_stored_one(admin_client: Client, page: str) -> None:
    response = admin_client.post(page + "change/", existing() | {"description": "new"})

    assert response.status_code == 302, response.content
    assert Vault.objects.get().description == "new"
    assert values() == {"TOKEN": SECRET}
    assert Vault.objects.get().entries.get().version == 1


def test_saving_several_entries_is_one_change_with_one_audit_record(admin_client: Client, page: str) -> None:
    records = AuditRecord.objects.count()
    new = {"entries-TOTAL_FORMS": "3"}
    for number, key in ((1, "ONE"), (2, "TWO")):
        new |= {
            f"entries-{number}-key": key,
            f"entries-{number}-value": SUITE.secret(),
            f"entries-{number}-is_secret": "on",
        }

    response = admin_client.post(page + "change/", existing(DELETE="on") | new | {"description": "new"})

    assert response.status_code == 302, response.content
    assert values().keys() == {"ONE", "TWO"}
    revisions = {entry.revision for entry in Vault.objects.get().entries.all()}
    assert revisions == {StoredDocument.objects.get(name="api-keys").revision}
    record = AuditRecord.objects.latest("pk")
    assert (AuditRecord.objects.count(), record.action) == (records + 1, "vault.updated")
    assert json.loads(record.changes).keys() >= {"description", "TOKEN.value", "ONE.value", "TWO.value"}


def test_a_new_value_replaces_the_old_one(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(value=PEM.replace("\n", "\r\n")) | {"replaces_at_once": "on"})

    assert values() == {"TOKEN": PEM}
    assert Vault.objects.get().replacements == 1
    assert "the-old" not in admin_client.get(page + "entries/TOKEN/").content.decode()
    assert [version.version for version in queries.list_versions("api-keys", "TOKEN")] == [2, 1]


def test_unmasking_requires_the_value(admin_client: Client, page: str) -> None:
    refused = admin_client.post(page + "change/", existing(is_secret=""))
    assert "Enter the value again to show it." in refused.content.decode()
    assert SECRET not in refused.content.decode()
    assert Vault.objects.get().entries.get().is_secret

    admin_client.post(page + "change/", existing(is_secret="", value="harmless"))

    assert [entry.displayed_value for entry in VaultEntry.objects.all()] == ["harmless"]


def test_an_unmasked_value_is_rendered_changed_and_masked(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(is_secret="", value="level\ninfo"))
    assert "level\ninfo</textarea>" in admin_client.get(page + "change/").content.decode()

    same = existing(is_secret="", value="level\r\ninfo", known_version="2")
    admin_client.post(page + "change/", same)
    assert Vault.objects.get().entries.get().version == 2

    empty = admin_client.post(page + "change/", same | {"entries-0-value": ""})
    assert "The value may not be empty." in empty.content.decode()
    admin_client.post(page + "change/", same | {"entries-0-is_secret": "on"})

    assert (values(), Vault.objects.get().entries.get().is_secret) == ({"TOKEN": "level\ninfo"}, True)
    assert "level\ninfo" not in admin_client.get(page + "change/").content.decode()


def test_a_concurrently_changed_value_is_not_overwritten(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value="from-elsewhere")

    response = admin_client.post(page + "change/", existing(value="mine"))

    assert "is at version 2; version 1 was expected" in response.content.decode()
    assert values() == {"TOKEN": "from-elsewhere"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"entries-0-key": "9A"}, "Use letters, digits and `_`"),
        ({"entries-0-key": "PATH"}, "PATH is reserved for the worker."),
        ({"entries-0-value": ""}, "The value may not be empty."),
        ({"entries-0-value": "x" * 65537}, "The value may have at most 64 KiB."),
    ],
)
def test_an_invalid_entry_has_an_error_at_its_field(admin_client: Client, wrong: dict[str, str], sentence: str) -> None:
    form = {"name": "api-keys"} | ONE_ENTRY | {"entries-0-value": SECRET, "entries-0-is_secret": "on"} | wrong

    assert sentence in admin_client.post(f"{PAGES}add/", form).content.decode()
    assert not Vault.objects.exists()


def test_an_entry_is_deleted(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(DELETE="on"))

    assert values() == {}
    assert "deleted" in admin_client.get(page + "entries/TOKEN/").content.decode()


def test_deleting_a_vault_shows_its_queues_and_requires_its_name(admin_client: Client, page: str) -> None:
    use_vault("mail", "reports")
    confirmation = admin_client.get(page + "delete/").content.decode()
    assert "Queues use this vault." in confirmation
    assert "mail" in confirmation
    assert "reports" in confirmation

    for wrong in ("", "yes", "API-KEYS"):
        assert (
            "Enter api-keys to delete the vault."
            in admin_client.post(page + "delete/", {"name": wrong}).content.decode()
        )
    assert Vault.objects.exists()
    response = admin_client.post(page + "delete/", {"name": " api-keys "}, follow=True)

    assert "The vault api-keys was deleted." in response.content.decode()
    assert not Vault.objects.exists()


def test_the_list_shows_the_number_of_entries_and_the_queues_of_a_vault(
    admin_client: Client, page: str, django_assert_max_num_queries: Any
) -> None:
    use_vault("a", "b", "c", "d")
    create_vault(name="unused")

    with django_assert_max_num_queries(12):
        content = admin_client.get(PAGES).content.decode()

    assert "a, b, c and 1 more" in content
    assert "no queue" in content


def test_a_vault_with_many_entries_takes_few_queries(
    admin_client: Client, page: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        set_entry(vault="api-keys", key=f"KEY_{number}", value=f"value-{number}")
    use_vault("mail")

    with django_assert_max_num_queries(12):
        content = admin_client.get(page + "change/").content.decode()

    assert "KEY_29" in content
    assert "No worker of these queues is running." in content


@pytest.mark.usefixtures("stopped_clock")
def test_the_page_of_a_vault_shows_its_workers_and_its_deliveries(admin_client: Client, page: str) -> None:
    use_vault("mail")
    for worker in ("w1", "w2"):
        live(worker)
    deliver("w1", "api-keys")
    store_deliveries()

    assert "1 of 2 workers have the current values." in admin_client.get(page + "change/").content.decode()
    content = admin_client.get(page + "deliveries/").content.decode()
    assert "TOKEN 1" in content
    assert ">w1</td>" in content
    assert ">w2</td>" not in content
    assert "No deliveries to this worker." in admin_client.get(page + "deliveries/?worker=w2").content.decode()


def test_the_page_of_a_vault_works_while_redis_is_unavailable(admin_client: Client, page: str, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert "so the workers are unknown" in admin_client.get(page + "change/").content.decode()


def test_without_a_master_key_the_pages_explain_what_to_do(admin_client: Client, page: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    response = admin_client.post(f"{PAGES}add/", {"name": "other"} | NO_ENTRIES)

    assert "Vaults are locked" in response.content.decode()
    for path in (PAGES, page + "change/", f"{PAGES}add/"):
        assert "runqy manage generate_vault_key" in admin_client.get(path).content.decode()
    assert "cannot be decrypted" in admin_client.get(page + "change/").content.decode()
    assert Vault.objects.count() == 1


def test_with_the_wrong_master_key_the_page_shows_the_decrypt_errors(
    admin_client: Client, page: str, settings: Any
) -> None:
    assert "not open" not in admin_client.get(page + "change/").content.decode()
    settings.RUNQY_VAULT_MASTER_KEY = generate_master_key()

    content = admin_client.get(page + "change/").content.decode()

    assert "1 entry cannot be decrypted." in content
    assert "The entry api-keys/TOKEN was encrypted with the key" in content


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_viewer_sees_masked_values_and_cannot_change_them(page: str, role: str) -> None:
    client = staff_client(role)
    content = client.get(page + "change/").content.decode()

    assert "TOKEN" in content
    assert SECRET not in content
    assert 'name="entries-0-value"' not in content
    posts = {
        "change/": existing(value="mine"),
        "delete/": {"name": "api-keys"},
        "bulk-edit/": {"lines": "A=1", "apply": "1"},
    }
    assert {client.post(page + path, form).status_code for path, form in posts.items()} == {403}
    assert client.post(f"{PAGES}add/", {"name": "b"} | NO_ENTRIES).status_code == 403
    assert values() == {"TOKEN": SECRET}


def test_a_configurator_changes_vaults(page: str) -> None:
    client = staff_client("configurator")

    assert client.post(page + "change/", existing(value="theirs")).status_code == 302
    assert values() == {"TOKEN": "theirs"}


def test_a_git_token_is_declared_with_its_hosts(admin_client: Client, page: str) -> None:
    token = {"usage": "git_token", "git_hosts": "GitHub.com, gitlab.com:443"}

    refused = admin_client.post(page + "change/", existing(**token)).content.decode()
    assert "Enter the value again to extend its usage or its git hosts." in refused
    assert "GitHub.com, gitlab.com:443" in refused
    assert Vault.objects.get().entries.get().usage == "environment"

    response = admin_client.post(page + "change/", existing(value="ghp_new", **token))

    assert response.status_code == 302, response.content
    entry = Vault.objects.get().entries.get()
    assert (entry.usage, entry.git_hosts) == ("git_token", ["github.com", "gitlab.com"])
    assert values() == {}
    assert 'value="github.com, gitlab.com"' in admin_client.get(page + "change/").content.decode()


def test_restricting_an_entry_requires_no_value(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value=SECRET, git_hosts=["github.com", "gitlab.com"])

    response = admin_client.post(page + "change/", existing(usage="both", git_hosts="github.com"))

    assert response.status_code == 302, response.content
    assert Vault.objects.get().entries.get().git_hosts == ["github.com"]
    assert values() == {"TOKEN": SECRET}
    unchanged = AuditRecord.objects.filter(action="vault_entry.set").count()
    admin_client.post(page + "change/", existing(usage="both", git_hosts="GITHUB.COM"))
    assert AuditRecord.objects.filter(action="vault_entry.set").count() == unchanged


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"usage": "git_token", "git_hosts": ""}, "A git token requires the hosts that it may be sent to."),
        ({"usage": "environment", "git_hosts": "github.com"}, "Hosts require the usage"),
        ({"usage": "git_token", "git_hosts": "https://github.com"}, "A host is written like"),
    ],
)
def test_an_invalid_declaration_has_an_error_at_its_field(
    admin_client: Client, page: str, declared: dict[str, str], sentence: str
) -> None:
    refused = admin_client.post(page + "change/", existing(value="x", **declared))

    (formset,) = [each.formset for each in refused.context["inline_admin_formsets"]]
    assert sentence in formset.errors[0]["git_hosts"][0]
    assert Vault.objects.get().entries.get().usage == "environment"


def test_a_viewer_sees_the_usage_of_an_entry(page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value=SECRET, git_hosts=["github.com"])

    content = staff_client("viewer").get(page + "change/").content.decode()

    assert "github.com" in content
    assert "both" in content
