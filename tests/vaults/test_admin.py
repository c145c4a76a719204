"""Vaults in the admin: values go in, and those of secrets never come out."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from queues.definitions import Deployment
from queues.models import Source
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from runqy.publication.models import StoredDocument
from runqy.staff.roles import grant_roles
from tests.publication.support import away
from tests.queues.samples import spec
from tests.vaults.test_deliveries import hand_out, live
from tests.vaults.test_vaults import SECRET
from vaults import opening, queries
from vaults.deliveries import store_deliveries
from vaults.models import Vault
from vaults.operations import create_vault, set_entry
from vaults.queries import Outcome, preview_entries

pytestmark = pytest.mark.usefixtures("configuration")

PAGES = "/admin/vaults/vault/"
NO_ENTRIES = {"entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}
ONE_ENTRY = {"entries-TOTAL_FORMS": "1", "entries-INITIAL_FORMS": "0", "entries-0-key": "TOKEN"}
PEM = "-----BEGIN KEY-----\nMIIEvg==\n-----END KEY-----"
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def page(admin_client: Client) -> str:
    """Add a vault with a secret, as staff do, and return the path of its page."""
    form = {"name": "api-keys", "description": "d"} | ONE_ENTRY
    form |= {"entries-0-value": SECRET, "entries-0-is_secret": "on"}
    answer = admin_client.post(f"{PAGES}add/", form)
    assert answer.status_code == 302, answer.content
    return f"{PAGES}{Vault.objects.get().pk}/"


def existing(**changes: str) -> dict[str, Any]:
    """Return the form of the vault with its entry, changed."""
    vault = Vault.objects.get()
    row = vault.entries.get()
    entry = {"id": row.pk, "vault": vault.pk, "key": "TOKEN", "is_secret": "on", "value": "", "known_version": "1"}
    form = ONE_ENTRY | {"entries-INITIAL_FORMS": "1", "description": "d"}
    return form | {f"entries-0-{name}": value for name, value in (entry | changes).items()}


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


def test_a_preview_of_pasted_lines_says_what_changes_and_no_value(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="SAME", value="the-same")
    lines = f"SAME=the-same\nTOKEN=hidden-1\nNEW='{PEM}'"

    answer = admin_client.post(page + "paste/", {"lines": lines, "fragment": "1"})

    shown = answer.content.decode()
    words = [word for word in ("unchanged", "changed", "new") if f"\n{word}\n" in shown]
    assert words == ["unchanged", "changed", "new"]
    assert "Set 2 entries" in shown
    assert not any(value in shown for value in ("hidden-1", "the-same", "MIIEvg", SECRET))
    assert "no-store" in answer["Cache-Control"]
    assert values() == {"SAME": "the-same", "TOKEN": SECRET}


def test_pasted_lines_are_set_all_at_once(admin_client: Client, page: str) -> None:
    etag = Vault.objects.get().etag
    lines = f"TOKEN=hidden-1\r\nNEW='{PEM}'\r\n"

    answer = admin_client.post(page + "paste/", {"lines": lines, "etag": etag, "apply": "1", "fragment": "1"})

    assert answer["X-Runqy-Location"] == page + "change/"
    assert values() == {"TOKEN": "hidden-1", "NEW": PEM}
    assert all(entry.is_secret for entry in Vault.objects.get().entries.all())


def test_lines_with_a_mistake_are_refused_by_number_and_not_shown_again(admin_client: Client, page: str) -> None:
    lines = "NEW=hidden-1\nhidden-2\nPATH=hidden-3"

    answer = admin_client.post(page + "paste/", {"lines": lines, "apply": "1"}).content.decode()

    assert "Line 2: It is not KEY=value." in answer
    assert "Line 3: PATH is reserved for the worker." in answer
    assert "paste them once more" in answer
    assert not any(value in answer for value in ("hidden-1", "hidden-2", "hidden-3"))
    assert values() == {"TOKEN": SECRET}


def test_lines_are_not_set_in_a_vault_that_changed_since_the_preview(admin_client: Client, page: str) -> None:
    etag = Vault.objects.get().etag
    set_entry(vault="api-keys", key="OTHER", value="1")

    answer = admin_client.post(page + "paste/", {"lines": "NEW=1", "etag": etag, "apply": "1", "fragment": "1"})

    assert "The vault has changed since the preview" in answer.content.decode()
    assert values() == {"OTHER": "1", "TOKEN": SECRET}


def exported(client: Client, page: str) -> bytes:
    """Return the export of the vault."""
    answer = client.post(page + "export/", {"passphrase": PASSPHRASE, "again": PASSPHRASE})
    assert answer["Content-Disposition"] == 'attachment; filename="api-keys.runqy-vault"'
    assert "no-store" in answer["Cache-Control"]
    return answer.content


def upload(client: Client, content: bytes, **fields: str) -> str:
    """Send an export and return the answer's text."""
    form = {"file": SimpleUploadedFile("a", content), "passphrase": PASSPHRASE, "fragment": "1"} | fields
    answer = client.post(f"{PAGES}import/", form)
    return answer.content.decode() + answer.headers.get("X-Runqy-Location", "")


def test_a_vault_is_exported_and_imported_under_another_name(admin_client: Client, page: str) -> None:
    content = exported(admin_client, page)
    assert SECRET.encode() not in content

    preview = upload(admin_client, content, name="copy")
    assert "It makes the vault" in preview
    assert not Vault.objects.filter(name="copy").exists()
    done = upload(admin_client, content, name="copy", apply="1")

    assert done == f"{PAGES}{Vault.objects.get(name='copy').pk}/change/"
    assert opening.open_vaults(["copy"]).values == {"TOKEN": SECRET}
    assert SECRET not in preview


def test_an_import_replaces_a_vault_only_when_told_so(admin_client: Client, page: str) -> None:
    content = exported(admin_client, page)
    set_entry(vault="api-keys", key="LATER", value="1")

    assert "exists already" in upload(admin_client, content, apply="1")
    assert "removed" in upload(admin_client, content, replace="on")
    upload(admin_client, content, replace="on", apply="1")

    assert values() == {"TOKEN": SECRET}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"passphrase": "another passphrase"}, "Passphrase: The export does not open"),
        ({"name": "a b"}, "Name here: "),
        ({"passphrase": ""}, "Passphrase: This field is required."),
    ],
)
def test_an_import_that_fails_says_why(admin_client: Client, page: str, fields: dict[str, str], sentence: str) -> None:
    content = exported(admin_client, page)

    assert sentence in upload(admin_client, content, **fields)
    assert "File: " in upload(admin_client, b"no export", name="copy")
    assert Vault.objects.count() == 1


def test_passphrases_have_to_be_long_and_entered_twice(admin_client: Client, page: str) -> None:
    different = admin_client.post(page + "export/", {"passphrase": PASSPHRASE, "again": "x"}).content.decode()
    short = admin_client.post(page + "export/", {"passphrase": "short", "again": "short"}).content.decode()

    assert "It is not the same passphrase." in different
    assert "A passphrase has 12 to 1024 characters." in short
    assert PASSPHRASE not in different


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


def test_a_preview_of_entries_is_what_setting_them_does(admin_client: Client, page: str) -> None:
    found = preview_entries("api-keys", {"TOKEN": SECRET, "NEW": "1"})

    assert [entry.outcome for entry in found] == [Outcome.UNCHANGED, Outcome.ADDED]
    assert StoredDocument.objects.filter(kind="vault").count() == 1
