"""Many values at once in the admin: pasted, exported and imported, and none of them shown."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from runqy.audit.models import AuditRecord
from tests.vaults.admin_pages import PAGES, PASSPHRASE, PEM, values
from tests.vaults.test_vaults import SECRET
from vaults import opening
from vaults.models import Vault
from vaults.operations import set_entry

pytestmark = pytest.mark.usefixtures("configuration")


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


def test_a_preview_of_pasted_lines_is_recorded_for_it_shows_whether_a_guess_is_right(
    admin_client: Client, page: str
) -> None:
    admin_client.post(page + "paste/", {"lines": "TOKEN=a-guess\nNEW=1", "fragment": "1"})

    record = AuditRecord.objects.first()
    assert record is not None
    assert (record.action, record.object_name, record.actor_name) == ("vault.compared", "api-keys", "admin")
    assert json.loads(record.changes) == {"entries": {"old": None, "new": ["TOKEN"]}}


def test_a_preview_of_new_entries_alone_compares_nothing(admin_client: Client, page: str) -> None:
    admin_client.post(page + "paste/", {"lines": "NEW=1", "fragment": "1"})

    assert not AuditRecord.objects.filter(action="vault.compared").exists()


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
