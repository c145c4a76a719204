"""Who is named for a request, and for how long."""

from ipaddress import ip_network
from typing import Any

import pytest

from runqy.audit.actors import current_actor
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from runqy.configuration.models import StoredDocument
from runqy.configuration.operations import replace_configuration
from tests.api.client import ApiClient
from tests.configuration.support import put

pytestmark = pytest.mark.usefixtures("configuration")


def test_the_address_is_the_clients_own_behind_a_trusted_proxy(settings: Any) -> None:
    settings.RUNQY_TRUSTED_PROXIES = (ip_network("127.0.0.0/8"),)

    ApiClient().post("/api/keys", {"name": "shop"}, **{"X-Forwarded-For": "203.0.113.9"})

    row = AuditRecord.objects.get()
    assert (row.actor_kind, row.actor_name, row.actor_id) == ("key", "admin key of the environment", "")
    assert row.address == "203.0.113.9"


def test_a_forged_client_address_is_ignored() -> None:
    ApiClient().post("/api/keys", {"name": "shop"}, **{"X-Forwarded-For": "203.0.113.9"})

    assert AuditRecord.objects.get().address == "127.0.0.1"


def test_a_thread_has_no_actor_after_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fail(*_: Any, **__: Any) -> None:
        seen.append(current_actor().name)
        raise ZeroDivisionError

    monkeypatch.setattr("runqy.accounts.api.viewsets.list_api_keys_page", fail)

    responses = [ApiClient().get("/api/keys"), ApiClient().get("/api/keys/7"), ApiClient("wrong").get("/api/keys")]

    assert [response.status_code for response in responses] == [500, 404, 401]
    assert seen == ["admin key of the environment"]
    assert current_actor().kind == "server"


def test_a_database_that_replaces_what_is_published_is_recorded() -> None:
    put("mine")
    put("theirs")
    StoredDocument.objects.filter(name="theirs").delete()

    replace_configuration()
    replace_configuration()

    row = AuditRecord.objects.get()
    assert (row.action, row.changes) == (
        "configuration.replaced",
        '{"documents":{"new":["queue:theirs"],"old":null}}',
    )


def test_changes_keep_to_json_whatever_their_values_are() -> None:
    written = record(action="x.y", object_kind="x", object_name="y", changes={"b": (None, {"é": 1}), "a": (1.5, "\0")})

    assert written.changes == r'{"a":{"new":"\u0000","old":1.5},"b":{"new":{"\u00e9":1},"old":null}}'
