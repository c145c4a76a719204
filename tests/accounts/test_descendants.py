"""Keys that a key created: listed, and revoked with it on request."""

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.queries import list_accepted_descendants
from runqy.audit.models import AuditRecord
from runqy.configuration import snapshot
from runqy.configuration.snapshot import SnapshotCache, get_snapshot
from tests.accounts.authenticating import authenticate
from tests.api.client import ApiClient, problem

pytestmark = pytest.mark.usefixtures("configuration")

REVOKE = "/admin/accounts/apikey/{}/revoke/"


def create(client: ApiClient, name: str, role: str = "admin") -> tuple[int, ApiClient]:
    """Create a key over HTTP; return its id and a client with it."""
    created = json.loads(client.post("/api/keys", {"name": name, "role": role}).content)
    return created["api_key"]["id"], ApiClient(created["key"])


@pytest.fixture
def family() -> dict[str, Any]:
    """Return the ids and clients of a key, two keys that it created, and one that one of these created."""
    root_id, root = create(ApiClient(), "root")
    child_id, child = create(root, "child")
    other_id, other = create(root, "other", role="client")
    grandchild_id, grandchild = create(child, "grandchild")
    create(ApiClient(), "unrelated")
    ids = {"root": root_id, "child": child_id, "other": other_id, "grandchild": grandchild_id}
    return {"ids": ids, "clients": {"root": root, "child": child, "other": other, "grandchild": grandchild}}


def accepted() -> list[str]:
    """Return the names of the keys that are not revoked."""
    return list(ApiKey.objects.filter(revoked_at=None).order_by("pk").values_list("name", flat=True))


def test_a_key_shows_what_created_it(family: dict[str, Any]) -> None:
    content = json.loads(ApiClient().get(f"/api/keys/{family['ids']['child']}").content)
    by_command = create_api_key(name="by a command", role="client").row

    created_by = ("created_by_kind", "created_by", "created_by_key")
    assert [content[name] for name in created_by] == ["key", "root", family["ids"]["root"]]
    assert (by_command.created_by_kind, by_command.created_by_key) == ("server", None)


def test_revoking_a_key_counts_the_keys_that_it_created(family: dict[str, Any]) -> None:
    response = json.loads(ApiClient().delete(f"/api/keys/{family['ids']['root']}").content)

    assert (response["accepted_descendants"], response["revoked_descendants"]) == (3, [])
    assert accepted() == ["child", "other", "grandchild", "unrelated"]


def test_descendants_are_revoked_on_request_each_with_a_record(family: dict[str, Any]) -> None:
    ids = family["ids"]

    response = json.loads(ApiClient().delete(f"/api/keys/{ids['root']}?descendants=true").content)

    assert response["accepted_descendants"] == 0
    assert response["revoked_descendants"] == [ids["child"], ids["other"], ids["grandchild"]]
    assert accepted() == ["unrelated"]
    assert [client.get("/api/keys").status_code for client in family["clients"].values()] == [401] * 4
    recorded = AuditRecord.objects.filter(action="api_key.revoked").order_by("number")
    assert [row.object_name.split()[1] for row in recorded] == ["root", "child", "other", "grandchild"]


def test_descendants_of_a_revoked_key_are_revoked_later(family: dict[str, Any]) -> None:
    path = f"/api/keys/{family['ids']['root']}"
    ApiClient().delete(path)

    again = ApiClient().delete(path)
    later = ApiClient().delete(f"{path}?descendants=true")
    nothing_left = ApiClient().delete(f"{path}?descendants=true")

    assert (problem(again)["code"], problem(nothing_left)["code"]) == ("api_key_revoked", "api_key_revoked")
    assert len(json.loads(later.content)["revoked_descendants"]) == 3


def test_revoked_and_expired_keys_are_not_listed_but_their_descendants_are(family: dict[str, Any]) -> None:
    ids = family["ids"]
    ApiKey.objects.filter(pk=ids["other"]).update(expires_at=timezone.now())
    revoke_api_key(key_id=ids["child"])

    assert [key.pk for key in list_accepted_descendants([ids["root"]])] == [ids["grandchild"]]


def test_an_invalid_flag_is_refused(family: dict[str, Any]) -> None:
    response = ApiClient().delete(f"/api/keys/{family['ids']['root']}?descendants=perhaps")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert "root" in accepted()


def test_a_revoked_key_changes_nothing_in_a_process_with_an_old_snapshot(
    family: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    get_snapshot()
    monkeypatch.setattr(snapshot, "apply", lambda documents: None)
    monkeypatch.setattr(SnapshotCache, "refresh", lambda cache: None)
    revoke_api_key(key_id=family["ids"]["root"])
    root: ApiClient = family["clients"]["root"]

    responses = [root.post("/api/keys", {"name": "late"}), root.post("/api/vaults", {"name": "v"})]

    assert root.get("/api/keys").status_code == 200  # it is still accepted here
    assert [response.status_code for response in responses] == [401, 401]
    assert "late" not in accepted()


def test_the_command_lists_descendants_and_revokes_them_on_request(family: dict[str, Any], capsys: Any) -> None:
    ids = family["ids"]

    call_command("revoke_api_key", str(ids["child"]))
    output = capsys.readouterr()
    call_command("revoke_api_key", str(ids["root"]), "--descendants")

    assert f"{ids['grandchild']} grandchild" in output.err
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert accepted() == ["unrelated"]


def test_the_admin_lists_descendants_before_revoking(family: dict[str, Any], admin_client: Client) -> None:
    ids = family["ids"]
    page = REVOKE.format(ids["root"])

    confirmation = admin_client.get(page).content.decode()
    admin_client.post(page, {"confirmed": "yes", "descendants": "yes"})

    assert "Also revoke the 3 keys created with it" in confirmation
    assert "grandchild" in confirmation
    assert accepted() == ["unrelated"]


def test_the_admin_keeps_descendants_by_default(family: dict[str, Any], admin_client: Client) -> None:
    admin_client.post(REVOKE.format(family["ids"]["root"]), {"confirmed": "yes"})
    content = admin_client.get(f"/admin/accounts/apikey/{family['ids']['child']}/change/").content.decode()

    assert accepted() == ["child", "other", "grandchild", "unrelated"]
    assert f"/admin/accounts/apikey/{family['ids']['root']}/change/" in content
    assert f"/admin/accounts/apikey/{family['ids']['grandchild']}/change/" in content


def test_staff_are_warned_of_a_change_that_is_not_published(admin_client: Client, settings: Any) -> None:
    key = create_api_key(name="shop", role="client")
    assert authenticate(key.plain)
    page = REVOKE.format(key.row.pk)
    settings.REDIS_TARGET = settings.REDIS_TARGET.__class__(addresses=(("127.0.0.1", 1),))

    content = admin_client.post(page, {"confirmed": "yes"}, follow=True).content.decode()

    assert "Saved, but not published" in content
    assert authenticate(key.plain) is None
