"""API keys over HTTP."""

import json
from typing import Any

import pytest
from django.utils import timezone

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key
from runqy.audit.models import AuditRecord
from runqy.core.formats.durations import parse_rate
from tests.accounts.authenticating import authenticate
from tests.api.client import ApiClient, Response, problem
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY, WORKER_KEY

pytestmark = pytest.mark.usefixtures("configuration")

BODY = {"name": "shop", "role": "client", "queues": ["mail", "image"], "expires_at": "2090-01-01T02:00:00+02:00"}

NO_QUEUE = "No such queue yet: image, mail. The key may use it once it exists."


def create(body: dict[str, Any] = BODY) -> Response:
    """Create a key as an administrator."""
    return ApiClient().post("/api/keys", body)


def read(path: str) -> Any:
    """Return what an administrator reads."""
    response = ApiClient().get(path)
    assert response.status_code == 200, response.content
    assert response["Cache-Control"] == "no-store"
    return json.loads(response.content)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"expires_at": "2080-01-01T00:00:00Z", "rate_limit": "600/m"}, []),
        ({"expires_at": "2079-12-31T23:00:00-01:00", "rate_limit": "5/s"}, []),
        ({"expires_at": "2080-01-01T00:00:01Z", "rate_limit": "11/s"}, ["expires_at", "rate_limit"]),
        ({}, ["expires_at", "rate_limit"]),
    ],
)
def test_a_key_gives_at_most_the_limits_that_it_has(given: dict[str, str], refused: list[str]) -> None:
    limited = create({"name": "limited", "role": "admin", "expires_at": "2080-01-01T00:00:00Z", "rate_limit": "10/s"})
    plain = json.loads(limited.content)["key"]

    response = ApiClient(plain).post("/api/keys", {"name": "given", "role": "admin", **given})

    assert response.status_code == (400 if refused else 201)
    errors = problem(response)["errors"] if refused else []
    assert [error.partition(":")[0] for error in errors] == refused
    assert all("The key that creates it" in error for error in errors)
    assert ApiKey.objects.filter(name="given").exists() != bool(refused)


def test_a_key_created_with_a_limited_one_takes_the_default_rate_if_that_is_lower(settings: Any) -> None:
    plain = json.loads(create({"name": "limited", "role": "admin", "rate_limit": "10/s"}).content)["key"]
    settings.RUNQY_RATE_LIMIT = parse_rate("5/s")

    assert ApiClient(plain).post("/api/keys", {"name": "given"}).status_code == 201


def test_a_key_is_created_shown_once_and_works() -> None:
    response = create()

    assert (response.status_code, response["Cache-Control"]) == (201, "no-store")
    created = json.loads(response.content)
    row = ApiKey.objects.get()
    assert created == {
        "message": "API key created successfully",
        "key": created["key"],
        "api_key": {
            "id": row.pk,
            "name": "shop",
            "prefix": created["key"][:10],
            "role": "client",
            "queues": ["image", "mail"],
            "created_at": created["api_key"]["created_at"],
            "expires_at": "2090-01-01T00:00:00Z",
            "rate_limit": "",
            "revoked_at": None,
            "last_used_at": None,
            "created_by_kind": "key",
            "created_by": "admin key of the environment",
            "created_by_key": None,
            "vaults": [],
            "allow_shared_redis": False,
            "is_personal": False,
        },
        "warnings": [NO_QUEUE],
        "published": True,
    }
    identity = authenticate(created["key"])
    assert identity is not None
    assert identity.queues == frozenset({"mail", "image"})
    assert response["Location"] == f"/api/keys/{row.pk}"
    assert read(response["Location"]) == created["api_key"] | {"waiting_members": 0}
    assert read("/api/keys") == {"keys": [created["api_key"]], "count": 1, "next": None}


def test_a_name_is_enough_for_a_client_of_all_queues() -> None:
    created = json.loads(create({"name": "shop"}).content)["api_key"]

    assert (created["role"], created["queues"], created["expires_at"]) == ("client", [], None)


def test_keys_are_listed_the_newest_first() -> None:
    for name in "abc":
        create({"name": name})

    listed = read("/api/keys")

    assert [key["name"] for key in listed["keys"]] == ["c", "b", "a"]
    assert listed["count"] == 3


def test_many_keys_are_listed_page_by_page() -> None:
    for name in "abcde":
        create({"name": name})
    path, pages = "/api/keys?limit=2", []

    while path:
        page = read(path)
        pages.append("".join(key["name"] for key in page["keys"]))
        create({"name": "younger"})
        path = page["next"]

    assert pages == ["ed", "cb", "a"]


@pytest.mark.parametrize("query", ["limit=0", "cursor=nonsense", "cursor=InRleHQi", "cursor=LTE", "cursor=MWUzMA"])
def test_an_invalid_cursor_is_refused(query: str) -> None:
    response = ApiClient().get(f"/api/keys?{query}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")


def test_a_revoked_key_is_refused_and_stays_listed(each_plane: str) -> None:
    created = json.loads(create().content)
    path = f"/api/keys/{created['api_key']['id']}"

    response = ApiClient().delete(path)

    revoked = json.loads(response.content)
    assert (response.status_code, revoked["message"]) == (200, "API key revoked successfully")
    assert revoked["api_key"]["revoked_at"].startswith(f"{timezone.now():%Y}")
    assert read(path) == revoked["api_key"] | {"waiting_members": 0}
    assert problem(ApiClient(created["key"]).get("/queue/x"))["status"] == 401
    assert problem(ApiClient().delete(path))["code"] == "api_key_revoked"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": "a\0"}, "name"),
        ({"name": 7}, "name"),
        ({"role": "root"}, "role"),
        ({"queues": "mail"}, "queues"),
        ({"queues": [""]}, "queues"),
        ({"queues": ["a b"]}, "queues"),
        ({"queues": [7]}, "queues"),
        ({"queues": ["a"] * 1001}, "queues"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2090-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires": "2090-01-01T00:00:00Z"}, "expires"),
    ],
)
def test_invalid_fields_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    response = create(BODY | wrong)

    assert response.status_code == 400
    assert any(named in error for error in problem(response)["errors"])
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"role": "root"}, "role: Must be one of admin, worker, client, metrics, viewer, operator, configurator."),
        ({"name": "a\nb"}, "name: Must be one line of at most 100 characters, and not blank."),
        (
            {"queues": ["a b"]},
            "queues[0]: Use 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit.",
        ),
        ({"rate_limit": "10"}, "rate_limit: Must be a rate such as 50/s, 600/m or 10000/h."),
        ({"role": "metrics"}, "Keys with the role metrics cannot be limited to queues."),
    ],
)
def test_an_error_says_what_is_valid(wrong: dict[str, Any], expected: str) -> None:
    (error,) = problem(create(BODY | wrong))["errors"]

    assert error == expected


@pytest.mark.parametrize("name", ["photos_high", "photos.high", "plain_default"])
def test_a_key_cannot_be_limited_to_a_sub_queue(name: str) -> None:
    store_queues(spec("photos", "high:9", "low:1"), spec("plain"))
    queue = name[: name.index("_" if "_" in name else ".")]

    refused = create({"name": "shop", "queues": [name]})
    accepted = create({"name": "shop", "queues": [queue, "photos_low_res"]})

    expected = f"queues: {name} is a sub-queue; keys are limited to whole queues: name {queue}."
    assert problem(refused)["errors"] == [expected]
    assert json.loads(accepted.content)["warnings"] == [NO_QUEUE.replace("image, mail", "photos_low_res")]


def test_all_errors_are_returned_at_once() -> None:
    response = create({"name": "", "queues": ["a b"], "expires_at": "2020-01-01T00:00:00Z"})

    found = problem(response)
    assert found["code"] == "api_key_invalid"
    assert [error.partition(":")[0] for error in found["errors"]] == ["name", "queues[0]"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"role": "client"}', b"\xff"])
def test_an_invalid_body_is_refused(body: bytes) -> None:
    assert problem(ApiClient().post("/api/keys", body))["code"] == "invalid_request"


@pytest.mark.parametrize("key_id", ["0", "99", "x", "-1", "1.0", "9" * 18, "9" * 30, "٣"])
def test_an_unknown_key_is_not_found(key_id: str) -> None:
    for response in (ApiClient().get(f"/api/keys/{key_id}"), ApiClient().delete(f"/api/keys/{key_id}")):
        assert (response.status_code, problem(response)["code"]) == (404, "api_key_not_found")


def responses_of(client: ApiClient) -> list[Response]:
    """Return each route's response."""
    one = create_api_key(name="other", role="client").row.pk
    return [
        client.get("/api/keys"),
        client.post("/api/keys", BODY),
        client.get(f"/api/keys/{one}"),
        client.delete(f"/api/keys/{one}"),
    ]


@pytest.mark.parametrize("key", [CLIENT_KEY, WORKER_KEY])
def test_only_administrators_manage_keys(key: str) -> None:
    assert [problem(response)["code"] for response in responses_of(ApiClient(key))] == ["forbidden"] * 4


def test_an_administrator_of_some_queues_cannot_make_a_key_for_all() -> None:
    limited = create_api_key(name="half", role="admin", queues=["mail"])

    assert [problem(response)["code"] for response in responses_of(ApiClient(limited.plain))] == ["forbidden"] * 4
    assert ApiKey.objects.filter(revoked_at=None).count() == 2


def test_the_record_names_the_creating_key_and_not_the_created_one() -> None:
    admin = create_api_key(name="boss", role="admin")

    response = ApiClient(admin.plain).post("/api/keys", BODY, **{"X-Request-ID": "abc-123"})

    row = AuditRecord.objects.get(action="api_key.created", object_name__endswith="shop")
    assert (row.actor_kind, row.actor_name, row.actor_id) == ("key", "boss", str(admin.row.pk))
    assert (row.address, row.request_id) == ("127.0.0.1", "abc-123")
    assert json.loads(response.content)["key"] not in row.changes


def test_a_key_learns_what_it_may_do() -> None:
    body = {"name": "gpu", "role": "worker", "queues": ["mail", "image"], "vaults": ["tokens"]}
    created = json.loads(create(body).content)

    own = json.loads(ApiClient(created["key"]).get("/api/keys/self").content)
    unlimited = json.loads(ApiClient(CLIENT_KEY).get("/api/keys/self").content)

    key_id = str(created["api_key"]["id"])
    assert own == {"id": key_id, "name": "gpu", "role": "worker", "queues": ["image", "mail"], "vaults": ["tokens"]}
    assert (unlimited["id"], unlimited["role"], unlimited["queues"]) == (None, "client", [])
