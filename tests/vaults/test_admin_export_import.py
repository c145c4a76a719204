"""Bulk edit, export and import of vaults in the admin, which render no values."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from runqy.audit.models import AuditRecord
from tests.vaults.admin_pages import PAGES, PASSPHRASE, PEM, values
from tests.vaults.test_vaults import SECRET
from vaults import worker_secrets
from vaults.models import Vault
from vaults.operations import set_entry

pytestmark = pytest.mark.usefixtures("configuration")


def test_a_preview_of_lines_shows_changes_without_values(admin_client: Client, page: str) -> None:
    set_entry(vault="api-keys", key="SAME", value="the-same")
    lines = f"SAME=the-same\nTOKEN=hidden-1\nNEW='{PEM}'"

    response = admin_client.post(page + "bulk-edit/", {"lines": lines, "fragment": "1"})

    content = response.content.decode()
    words = [word for word in ("unchanged", "changed", "new") if f"\n{word}\n" in content]
    assert words == ["unchanged", "changed", "new"]
    assert "Set 2 entries" in content
    assert not any(value in content for value in ("hidden-1", "the-same", "MIIEvg", SECRET))
    assert "no-store" in response["Cache-Control"]
    assert values() == {"SAME": "the-same", "TOKEN": SECRET}


def test_a_preview_of_lines_is_recorded(admin_client: Client, page: str) -> None:
    admin_client.post(page + "bulk-edit/", {"lines": "TOKEN=a-guess\nNEW=1", "fragment": "1"})

    record = AuditRecord.objects.first()
    assert record is not None
    assert (record.action, record.object_name, record.actor_name) == ("vault.compared", "api-keys", "admin")
    assert json.loads(record.changes) == {"entries": {"old": None, "new": ["TOKEN"]}}


def test_a_preview_of_new_entries_is_not_recorded(admin_client: Client, page: str) -> None:
    admin_client.post(page + "bulk-edit/", {"lines": "NEW=1", "fragment": "1"})

    assert not AuditRecord.objects.filter(action="vault.compared").exists()


def test_lines_are_set_in_one_change(admin_client: Client, page: str) -> None:
    etag = Vault.objects.get().etag
    lines = f"TOKEN=hidden-1\r\nNEW='{PEM}'\r\n"

    response = admin_client.post(page + "bulk-edit/", {"lines": lines, "etag": etag, "apply": "1", "fragment": "1"})

    assert response["X-Runqy-Location"] == page + "change/"
    assert values() == {"TOKEN": "hidden-1", "NEW": PEM}
    assert all(entry.is_secret for entry in Vault.objects.get().entries.all())


def test_invalid_lines_are_rejected_by_number_and_not_rendered_again(admin_client: Client, page: str) -> None:
    lines = "NEW=hidden-1\nhidden-2\nPATH=hidden-3"

    response = admin_client.post(page + "bulk-edit/", {"lines": lines, "apply": "1"}).content.decode()

    assert "Line 2: Must be KEY=value." in response
    assert "Line 3: PATH is reserved for the worker." in response
    assert "paste them once more" in response
    assert not any(value in response for value in ("hidden-1", "hidden-2", "hidden-3"))
    assert values() == {"TOKEN": SECRET}


def test_lines_are_not_set_in_a_vault_that_changed_since_the_preview(admin_client: Client, page: str) -> None:
    etag = Vault.objects.get().etag
    set_entry(vault="api-keys", key="OTHER", value="1")

    response = admin_client.post(page + "bulk-edit/", {"lines": "NEW=1", "etag": etag, "apply": "1", "fragment": "1"})

    assert "The vault has changed since the preview" in response.content.decode()
    assert values() == {"OTHER": "1", "TOKEN": SECRET}


def exported(client: Client, page: str) -> bytes:
    """Return the export of the vault."""
    response = client.post(page + "export/", {"passphrase": PASSPHRASE, "again": PASSPHRASE})
    assert response["Content-Disposition"] == 'attachment; filename="api-keys.runqy-vault"'
    assert "no-store" in response["Cache-Control"]
    return response.content


def upload(client: Client, content: bytes, **fields: str) -> str:
    """Submit an export and return the text of the response."""
    form = {"file": SimpleUploadedFile("a", content), "passphrase": PASSPHRASE, "fragment": "1"} | fields
    response = client.post(f"{PAGES}import/", form)
    return response.content.decode() + response.headers.get("X-Runqy-Location", "")


def test_a_vault_is_exported_and_imported_under_another_name(admin_client: Client, page: str) -> None:
    content = exported(admin_client, page)
    assert SECRET.encode() not in content

    preview = upload(admin_client, content, name="copy")
    assert "Creates the vault" in preview
    assert not Vault.objects.filter(name="copy").exists()
    done = upload(admin_client, content, name="copy", apply="1")

    assert done == f"{PAGES}{Vault.objects.get(name='copy').pk}/change/"
    assert worker_secrets.get_worker_secrets(["copy"]).values == {"TOKEN": SECRET}
    assert SECRET not in preview


def test_an_import_replaces_a_vault_only_with_replace(admin_client: Client, page: str) -> None:
    content = exported(admin_client, page)
    set_entry(vault="api-keys", key="LATER", value="1")

    assert "already exists" in upload(admin_client, content, apply="1")
    assert "removed" in upload(admin_client, content, replace="on")
    upload(admin_client, content, replace="on", apply="1")

    assert values() == {"TOKEN": SECRET}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"passphrase": "another passphrase"}, "Passphrase: The export cannot be decrypted"),
        ({"name": "a b"}, "Name: "),
        ({"passphrase": ""}, "Passphrase: This field is required."),
    ],
)
def test_a_failed_import_shows_the_error(
    admin_client: Client, page: str, fields: dict[str, str], sentence: str
) -> None:
    content = exported(admin_client, page)

    assert sentence in upload(admin_client, content, **fields)
    assert "File: " in upload(admin_client, b"no export", name="copy")
    assert Vault.objects.count() == 1


def test_a_passphrase_must_be_long_and_entered_twice(admin_client: Client, page: str) -> None:
    different = admin_client.post(page + "export/", {"passphrase": PASSPHRASE, "again": "x"}).content.decode()
    short = admin_client.post(page + "export/", {"passphrase": "short", "again": "short"}).content.decode()

    assert "The passphrases do not match." in different
    assert "The passphrase must have 12 to 1024 characters." in short
    assert PASSPHRASE not in different
