"""Vaults in the admin: values go in, and those of secrets never come out."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client

from runqy.audit.models import AuditRecord
from tests.publication.support import away
from tests.vaults.admin_pages import NO_ENTRIES, ONE_ENTRY, PAGES, PASSPHRASE, PEM, of_role, use_vault, values
from tests.vaults.test_deliveries import hand_out, live
from tests.vaults.test_vaults import SECRET
from vaults import queries
from vaults.crypto import new_master_key
from vaults.deliveries import store_deliveries
from vaults.models import Vault
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")


def existing(**changes: str) -> dict[str, Any]:
    """Return the form of the vault with its entry, changed."""
    vault = Vault.objects.get()
    row = vault.entries.get()
    entry = {"id": row.pk, "vault": vault.pk, "key": "TOKEN", "is_secret": "on", "value": "", "known_version": "1"}
    form = ONE_ENTRY | {"entries-INITIAL_FORMS": "1", "description": "d"}
    return form | {f"entries-0-{name}": value for name, value in (entry | changes).items()}


def test_a_secret_that_staff_enter_reaches_workers_and_no_page(admin_client: Client, page: str) -> None:
    assert values() == {"TOKEN": SECRET}

    paths = [page + "change/", page + "history/", page + "delete/", page + "paste/", page + "deliveries/", PAGES]
    paths += [page + "export/", page + "entries/TOKEN/", "/admin/"]
    shown = "".join(admin_client.get(path, follow=True).content.decode() for path in paths)

    assert "TOKEN" in shown
    assert SECRET not in shown
    kept = [*LogEntry.objects.values_list("change_message"), *AuditRecord.objects.values_list("changes")]
    assert SECRET not in str(kept) + str([session.get_decoded() for session in Session.objects.all()])


def test_a_secret_is_shown_masked_with_its_fingerprint_and_version(admin_client: Client, page: str) -> None:
    shown = admin_client.get(page + "change/").content.decode()

    (entry,) = queries.get_vault("api-keys").entries
    assert f">{entry.value}</code>" in shown
    assert f"#{entry.fingerprint}</code>" in shown
    assert "version 1" in shown
    assert f'href="{page}entries/TOKEN/"' in shown


def test_a_form_with_an_error_does_not_show_the_secret_again_and_says_so(admin_client: Client) -> None:
    form = {"name": "b d"} | ONE_ENTRY | {"entries-0-value": SECRET}

    answer = admin_client.post(f"{PAGES}add/", form).content.decode()

    assert "A vault&#x27;s name has" in answer
    assert "enter them once more" in answer
    assert SECRET not in answer


def test_saving_without_a_new_value_keeps_the_old_one(admin_client: Client, page: str) -> None:
    answer = admin_client.post(page + "change/", existing() | {"description": "new"})

    assert answer.status_code == 302, answer.content
    assert Vault.objects.get().description == "new"
    assert values() == {"TOKEN": SECRET}
    assert Vault.objects.get().entries.get().version == 1


def test_a_new_value_takes_the_place_of_the_old_one(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(value=PEM.replace("\n", "\r\n")))

    assert values() == {"TOKEN": PEM}
    assert "the-old" not in admin_client.get(page + "entries/TOKEN/").content.decode()
    assert [version.version for version in queries.list_versions("api-keys", "TOKEN")] == [2, 1]


def test_taking_the_mask_off_needs_the_value_again(admin_client: Client, page: str) -> None:
    refused = admin_client.post(page + "change/", existing(is_secret=""))
    assert "Enter the value again to take its mask off." in refused.content.decode()
    assert SECRET not in refused.content.decode()
    assert Vault.objects.get().entries.get().is_secret

    admin_client.post(page + "change/", existing(is_secret="", value="harmless"))

    assert [entry.value for entry in queries.get_vault("api-keys").entries] == ["harmless"]


def test_a_value_that_is_no_secret_is_read_changed_and_masked(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(is_secret="", value="level\ninfo"))
    assert "level\ninfo</textarea>" in admin_client.get(page + "change/").content.decode()

    same = existing(is_secret="", value="level\r\ninfo", known_version="2")
    admin_client.post(page + "change/", same)
    assert Vault.objects.get().entries.get().version == 2

    empty = admin_client.post(page + "change/", same | {"entries-0-value": ""})
    assert "A value is not empty." in empty.content.decode()
    admin_client.post(page + "change/", same | {"entries-0-is_secret": "on"})

    assert (values(), Vault.objects.get().entries.get().is_secret) == ({"TOKEN": "level\ninfo"}, True)
    assert "level\ninfo" not in admin_client.get(page + "change/").content.decode()


def test_nobody_overwrites_a_value_that_they_have_not_seen(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value="from-elsewhere")

    answer = admin_client.post(page + "change/", existing(value="mine"))

    assert "is at version 2; version 1 was expected" in answer.content.decode()
    assert values() == {"TOKEN": "from-elsewhere"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"entries-0-key": "9A"}, "A variable&#x27;s name has letters"),
        ({"entries-0-key": "PATH"}, "PATH is reserved for the worker."),
        ({"entries-0-value": ""}, "A value is not empty."),
        ({"entries-0-value": "x" * 65537}, "A value has at most 64 KiB."),
    ],
)
def test_what_cannot_be_an_entry_is_said_at_its_field(
    admin_client: Client, wrong: dict[str, str], sentence: str
) -> None:
    form = {"name": "api-keys"} | ONE_ENTRY | {"entries-0-value": SECRET, "entries-0-is_secret": "on"} | wrong

    assert sentence in admin_client.post(f"{PAGES}add/", form).content.decode()
    assert not Vault.objects.exists()


def test_an_entry_is_deleted(admin_client: Client, page: str) -> None:
    admin_client.post(page + "change/", existing(DELETE="on"))

    assert values() == {}
    assert "deleted" in admin_client.get(page + "entries/TOKEN/").content.decode()


def test_deleting_a_vault_names_its_queues_and_asks_for_its_name(admin_client: Client, page: str) -> None:
    use_vault("mail", "reports")
    asked = admin_client.get(page + "delete/").content.decode()
    assert "Queues use this vault." in asked
    assert "mail" in asked
    assert "reports" in asked

    for wrong in ("", "yes", "API-KEYS"):
        assert "Enter api-keys to delete it." in admin_client.post(page + "delete/", {"name": wrong}).content.decode()
    assert Vault.objects.exists()
    answer = admin_client.post(page + "delete/", {"name": " api-keys "}, follow=True)

    assert "The vault api-keys is deleted." in answer.content.decode()
    assert not Vault.objects.exists()


def test_the_list_says_how_many_entries_a_vault_has_and_who_uses_it(
    admin_client: Client, page: str, django_assert_max_num_queries: Any
) -> None:
    use_vault("a", "b", "c", "d")
    create_vault(name="unused")

    with django_assert_max_num_queries(12):
        shown = admin_client.get(PAGES).content.decode()

    assert "a, b, c and 1 more" in shown
    assert "no queue" in shown


def test_a_vault_with_many_entries_takes_few_queries(
    admin_client: Client, page: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        set_entry(vault="api-keys", key=f"KEY_{number}", value=f"value-{number}")
    use_vault("mail")

    with django_assert_max_num_queries(12):
        shown = admin_client.get(page + "change/").content.decode()

    assert "KEY_29" in shown
    assert "No worker of these queues is up." in shown


def test_a_vaults_page_says_which_workers_have_its_values_and_its_deliveries_what_they_got(
    admin_client: Client, page: str
) -> None:
    use_vault("mail")
    for worker in ("w1", "w2"):
        live(worker)
    hand_out("w1", "api-keys")
    store_deliveries()

    assert "1 of 2 workers have the current values." in admin_client.get(page + "change/").content.decode()
    shown = admin_client.get(page + "deliveries/").content.decode()
    assert "TOKEN 1" in shown
    assert ">w1</td>" in shown
    assert ">w2</td>" not in shown
    assert "Nothing was handed out to this worker." in admin_client.get(page + "deliveries/?worker=w2").content.decode()


def test_the_page_of_a_vault_works_while_redis_is_away(admin_client: Client, page: str, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert "not known which workers have its values" in admin_client.get(page + "change/").content.decode()


def test_without_a_master_key_the_pages_say_what_to_do(admin_client: Client, page: str, settings: Any) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""

    answer = admin_client.post(f"{PAGES}add/", {"name": "other"} | NO_ENTRIES)

    assert "Vaults are locked" in answer.content.decode()
    for path in (PAGES, page + "change/", f"{PAGES}add/"):
        assert "manage.py generate_vault_key" in admin_client.get(path).content.decode()
    assert "does not open" in admin_client.get(page + "change/").content.decode()
    assert Vault.objects.count() == 1


def test_with_the_wrong_master_key_the_page_says_what_does_not_open_and_why(
    admin_client: Client, page: str, settings: Any
) -> None:
    assert "not open" not in admin_client.get(page + "change/").content.decode()
    settings.RUNQY_VAULT_MASTER_KEY = new_master_key()

    shown = admin_client.get(page + "change/").content.decode()

    assert "1 entry does not open." in shown
    assert "The entry api-keys/TOKEN was encrypted with the key" in shown


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_who_only_looks_sees_masked_values_and_changes_nothing(page: str, role: str) -> None:
    client = of_role(role)
    shown = client.get(page + "change/").content.decode()

    assert "TOKEN" in shown
    assert SECRET not in shown
    assert 'name="entries-0-value"' not in shown
    posts = {
        "change/": existing(value="mine"),
        "delete/": {"name": "api-keys"},
        "paste/": {"lines": "A=1", "apply": "1"},
    }
    posts["export/"] = {"passphrase": PASSPHRASE, "again": PASSPHRASE}
    assert {client.post(page + path, form).status_code for path, form in posts.items()} == {403}
    assert client.post(f"{PAGES}add/", {"name": "b"} | NO_ENTRIES).status_code == 403
    assert client.get(f"{PAGES}import/").status_code == 403
    assert values() == {"TOKEN": SECRET}


def test_a_configurator_keeps_vaults_but_does_not_take_their_values_along(page: str) -> None:
    client = of_role("configurator")

    assert client.post(page + "change/", existing(value="theirs")).status_code == 302
    assert client.post(page + "export/", {"passphrase": PASSPHRASE, "again": PASSPHRASE}).status_code == 403
    assert "export/" not in client.get(page + "change/").content.decode()
    assert values() == {"TOKEN": "theirs"}
    assert "export/" in of_role("admin").get(page + "change/").content.decode()


def test_a_git_token_is_declared_with_its_hosts(admin_client: Client, page: str) -> None:
    token = {"usage": "git_token", "git_hosts": "GitHub.com, gitlab.com:443"}

    refused = admin_client.post(page + "change/", existing(**token)).content.decode()
    assert "Enter the value again to let it be used for more, or sent to other hosts." in refused
    assert "GitHub.com, gitlab.com:443" in refused
    assert Vault.objects.get().entries.get().usage == "environment"

    answer = admin_client.post(page + "change/", existing(value="ghp_new", **token))

    assert answer.status_code == 302, answer.content
    entry = Vault.objects.get().entries.get()
    assert (entry.usage, entry.git_hosts) == ("git_token", ["github.com", "gitlab.com"])
    assert values() == {}
    assert 'value="github.com, gitlab.com"' in admin_client.get(page + "change/").content.decode()


def test_less_than_before_needs_no_value(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value=SECRET, git_hosts=["github.com", "gitlab.com"])

    answer = admin_client.post(page + "change/", existing(usage="both", git_hosts="github.com"))

    assert answer.status_code == 302, answer.content
    assert Vault.objects.get().entries.get().git_hosts == ["github.com"]
    assert values() == {"TOKEN": SECRET}
    unchanged = AuditRecord.objects.filter(action="vault_entry.set").count()
    admin_client.post(page + "change/", existing(usage="both", git_hosts="GITHUB.COM"))
    assert AuditRecord.objects.filter(action="vault_entry.set").count() == unchanged


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"usage": "git_token", "git_hosts": ""}, "A git token names the hosts that it may be sent to."),
        ({"usage": "environment", "git_hosts": "github.com"}, "Only a git token has hosts"),
        ({"usage": "git_token", "git_hosts": "https://github.com"}, "a host is written like"),
    ],
)
def test_a_wrong_declaration_is_told_at_its_field(
    admin_client: Client, page: str, declared: dict[str, str], sentence: str
) -> None:
    refused = admin_client.post(page + "change/", existing(value="x", **declared))

    assert sentence in refused.content.decode()
    assert Vault.objects.get().entries.get().usage == "environment"


def test_who_may_only_look_sees_what_an_entry_is_for(page: str) -> None:
    set_entry(vault="api-keys", key="TOKEN", value=SECRET, git_hosts=["github.com"])

    shown = of_role("viewer").get(page + "change/").content.decode()

    assert "github.com" in shown
    assert "both" in shown
