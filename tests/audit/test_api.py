"""The audit over HTTP."""

import json
from typing import Any

import pytest

from runqy.accounts.operations import create_api_key
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from tests.api.client import ApiClient, problem

pytestmark = pytest.mark.usefixtures("configuration")


def add(action: str = "queue.updated", name: str = "mail", **changes: Any) -> AuditRecord:
    return record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)


def read(query: str = "") -> Any:
    response = ApiClient().get(f"/api/audit{query}")
    assert (response.status_code, response["Cache-Control"]) == (200, "no-store"), response.content
    return json.loads(response.content)


def numbers(query: str) -> list[int]:
    return [row["number"] for row in read(query)["records"]]


def test_record_has_its_actor_and_changes() -> None:
    row = add(priority=(1, 2), env_vars="changed")

    assert read()["records"] == [
        {
            "number": 1,
            "at": row.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "recorded_at": None,
            "actor_kind": "server",
            "actor_name": "server",
            "actor_id": None,
            "address": None,
            "request_id": None,
            "action": "queue.updated",
            "object_kind": "queue",
            "object_name": "mail",
            "changes": {"priority": {"old": 1, "new": 2}, "env_vars": "changed"},
        }
    ]


def test_objects_and_kinds_that_differ_in_case_are_others() -> None:
    add("vault_entry.set", "tokens/A")
    add("VAULT_entry.set", "TOKENS/A")

    assert (numbers("?object=tokens"), numbers("?object_kind=vault")) == ([1], [1])


def test_records_are_filtered() -> None:
    add(name="mail")
    add("vault.created", "tokens")
    second = add("vault_entry.set", "tokens/A")

    time = second.at.isoformat().replace("+00:00", "Z")
    assert {
        query: numbers(f"?{query}")
        for query in (
            "object=tokens",
            "object=token",
            "object_kind=vault",
            "action=vault.created",
            "actor=server",
            "actor=ada",
            "text=TOK+set",
            f"from={time}",
            f"to={time}",
        )
    } == {
        "object=tokens": [3, 2],
        "object=token": [],
        "object_kind=vault": [3, 2],
        "action=vault.created": [2],
        "actor=server": [3, 2, 1],
        "actor=ada": [],
        "text=TOK+set": [3],
        f"from={time}": [3],
        f"to={time}": [2, 1],
    }


def test_pages_follow_each_other() -> None:
    for name in "abc":
        add(name=name)

    first = read("?limit=2&object_kind=queue")
    second = read(first["next"].removeprefix("/api/audit"))

    assert [[row["number"] for row in page["records"]] for page in (first, second)] == [[3, 2], [1]]
    assert second["next"] is None


@pytest.mark.parametrize("query", ["?from=yesterday", "?to=2026-01-31T12:00:00", "?limit=0", "?cursor=x"])
def test_invalid_parameters_are_refused(query: str) -> None:
    response = ApiClient().get(f"/api/audit{query}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


def test_key_limited_to_queues_reads_no_records() -> None:
    key = create_api_key(name="team", role="admin", queues=["mail"]).plain

    response = ApiClient(key).get("/api/audit")

    assert (response.status_code, problem(response)["code"]) == (403, "forbidden")
