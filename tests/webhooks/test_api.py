"""/api/webhooks."""

import json
from dataclasses import replace
from typing import Any

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker import keys
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.webhooks.receiver import Receiver, send_due
from vaults.models import SealedSecret
from vaults.rotation import count_outdated, rotate_entries
from vaults.status import get_vault_status
from webhooks import endpoint_rules
from webhooks.models import Endpoint
from webhooks.operations import disable_failing_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

ADDRESS = "https://hooks.example.com/runqy"
BODY = {"url": ADDRESS, "queues": ["mail"], "events": ["task.completed"]}


@pytest.fixture(autouse=True)
def _queues(configuration: None) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("video"), source=QueueSource.API)


def create(client: ApiClient | None = None, **members: object) -> dict[str, Any]:
    response = (client or ApiClient(ADMIN_KEY)).post("/api/webhooks", BODY | members)
    assert response.status_code == 201, response.content
    created: dict[str, Any] = response.json()
    return created


def change(endpoint: dict[str, Any], **members: object) -> dict[str, Any]:
    response = ApiClient(ADMIN_KEY).patch(f"/api/webhooks/{endpoint['id']}", members)
    assert response.status_code == 200, response.content
    changed: dict[str, Any] = response.json()
    return changed


def covered(queue: str) -> bool:
    return get_fresh_catalog(max_age_s=0).get_queue(queue).notify.endpoints


def test_an_endpoint_of_tasks_whose_ends_go_workers_delete_warns(redis: Any) -> None:
    without_results = spec("mail").deployment
    for name in ("mail", "post"):
        save_queue(spec=spec(name, deployment=replace(without_results, redis_storage=False)), source=QueueSource.API)
    now_s = get_broker().now_s()
    redis.zadd(keys.WORKERS, {"vm:17": now_s + 60})
    redis.hset(
        keys.go_worker("vm:17"), mapping={"worker_id": "vm:17", "queues": "map[mail:5 video:5]", "last_beat": now_s}
    )

    created = create(queues=["mail", "post", "video"])
    (warning,) = created["warnings"]
    batch = ApiClient(ADMIN_KEY).post("/batches", {"queue": "mail", "jobs": [{}]}).json()

    assert warning.startswith("Ends of tasks in the queue mail that Go's workers run are not told")
    assert create(queues=[])["warnings"] == batch["warnings"] == [warning]
    assert create(queues=["post", "video"])["warnings"] == []
    assert create(queues=["mail"], events=["alert.opened"])["warnings"] == []
    changes: list[dict[str, object]] = [{"queues": ["post"]}, {"queues": ["mail"]}, {"events": ["alert.opened"]}]
    assert [change(created, **members)["warnings"] for members in changes] == [[], [warning], []]


def test_an_endpoint_is_created_with_a_secret_that_is_shown_once() -> None:
    created = create(headers={"Authorization": "Bearer verysecret"})

    secret = created.pop("secret")
    assert (secret[:6], created.pop("warnings")) == ("whsec_", [])
    response = ApiClient(ADMIN_KEY).get(f"/api/webhooks/{created['id']}")
    assert response.json() == created
    assert (created["headers"], created["created_by_kind"]) == (["Authorization"], "key")
    assert ApiClient(ADMIN_KEY).get("/api/webhooks").json() == {"webhooks": [created]}
    assert (covered("mail"), covered("video")) == (True, False)
    for text in (secret.encode(), b"verysecret"):
        stored = [bytes(row.ciphertext) for row in SealedSecret.objects.all()]
        assert not any(text in each for each in stored)
    assert "verysecret" not in "".join(row.changes for row in audit_records())


@pytest.mark.parametrize(
    ("members", "status", "error"),
    [
        ({"url": "ftp://hooks.example.com"}, 400, "url: Begins with ftp:, must begin with https://."),
        ({"url": "notaurl"}, 400, "url: Must begin with https://, as https://hooks.example.com/runqy does."),
        ({"url": "https://hooks.example.com/#a"}, 400, "url: Must have no fragment, which is the part from # on."),
        ({"url": "http://hooks.example.com"}, 400, "RUNQY_WEBHOOK_NETWORKS"),
        ({"url": "https://user:word@hooks.example.com"}, 400, "url: Must have no user and no password."),
        ({"url": "https://10.0.0.5/hook"}, 400, "url: 10.0.0.5 is in a private network or on this machine."),
        ({"url": "https://0x7f.1/hook"}, 400, "url: 0x7f.1 is in a private network or on this machine."),
        ({"url": "https://[::ffff:169.254.169.254]/"}, 400, "is in a private network or on this machine."),
        ({"events": []}, 400, "events"),
        ({"events": ["task.started"]}, 400, "events[0]"),
        ({"queues": ["nothing"]}, 400, "No queue 'nothing'"),
        (
            {"queues": ["mail", "video_default"]},
            400,
            "queues: video_default is a sub-queue; endpoints are limited to whole queues: name video.",
        ),
        ({"headers": {"Host": "a"}}, 400, "headers.Host"),
        ({"headers": {"webhook-id": "a"}}, 400, "headers.webhook-id"),
        ({"headers": {"User-Agent": "a"}}, 400, "headers.User-Agent"),
        ({"headers": {"X-A": "a\r\nb: c"}}, 400, "headers.X-A"),
        ({"secret": "whsec_"}, 400, "secret"),
    ],
)
def test_wrong_members_are_named(members: dict[str, Any], status: int, error: str) -> None:
    response = ApiClient(ADMIN_KEY).post("/api/webhooks", BODY | members)

    assert response.status_code == status
    assert error in response.json()["detail"]
    assert not Endpoint.objects.exists()


def test_a_change_keeps_what_it_does_not_name() -> None:
    endpoint = create(headers={"X-A": "1"}, include_result=True)
    path = f"/api/webhooks/{endpoint['id']}"

    changed = ApiClient(ADMIN_KEY).patch(path, {"queues": [], "events": ["task.archived"]}).json()

    assert (changed["queues"], changed["events"], changed["headers"]) == ([], ["task.archived"], ["X-A"])
    assert changed["include_result"]
    assert covered("video")
    assert not ApiClient(ADMIN_KEY).patch(path, {"enabled": False}).json()["enabled"]
    assert not covered("mail")


def test_stored_headers_are_not_sent_to_another_host() -> None:
    path = f"/api/webhooks/{create(headers={'Authorization': 'Bearer verysecret'})['id']}"
    other = {"url": "https://other.example.com/runqy"}

    refused = ApiClient(ADMIN_KEY).patch(path, other)

    assert (refused.status_code, refused.json()["errors"]) == (
        400,
        ["headers: Enter Authorization again, for the other host."],
    )
    assert ApiClient(ADMIN_KEY).patch(path, {"url": f"{ADDRESS}/new"}).json()["headers"] == ["Authorization"]
    assert ApiClient(ADMIN_KEY).patch(path, other | {"headers": {"X-A": "1"}}).json()["headers"] == ["X-A"]
    assert ApiClient(ADMIN_KEY).patch(path, BODY | {"headers": {}}).json()["headers"] == []


def test_an_endpoint_covers_tasks_that_are_enqueued_after_it() -> None:
    before = get_fresh_catalog(max_age_s=0).get_queue("mail").notify.revision
    first = Endpoint.objects.get(pk=create()["id"])
    revision = get_fresh_catalog(max_age_s=0).get_queue("mail").notify.revision
    later = Endpoint.objects.get(pk=create()["id"])
    ApiClient(ADMIN_KEY).patch(f"/api/webhooks/{first.pk}", {"queues": ["mail", "video"]})
    first.refresh_from_db()

    assert [first.covers("mail", revision=each) for each in (before, revision)] == [False, True]
    assert not later.covers("mail", revision=revision)
    assert not first.covers("video", revision=revision)


def test_an_endpoint_keeps_the_name_of_a_deleted_queue_as_keys_do() -> None:
    create()
    client = ApiClient(ADMIN_KEY)

    deleted = client.delete("/api/cli/configs/mail")
    left = client.get("/api/webhooks").json()["webhooks"][0]["queues"]
    save_queue(spec=spec("mail"), source=QueueSource.API)

    assert (deleted.status_code, left, covered("mail")) == (200, ["mail"], True)


def test_a_key_limited_to_queues_reaches_only_endpoints_of_its_queues() -> None:
    everything, of_mail, of_video = create(queues=[]), create(), create(queues=["mail", "video"])
    key = create_api_key(name="mail", role=Role.ADMIN, queues=["mail"])
    client = ApiClient(key.plain)

    listed = [each["id"] for each in client.get("/api/webhooks").json()["webhooks"]]
    assert listed == [of_mail["id"]]
    for endpoint in (everything, of_video):
        for method, part in (
            ("get", ""),
            ("delete", ""),
            ("post", "/rotate"),
            ("post", "/test"),
            ("get", "/deliveries"),
        ):
            response = getattr(client, method)(f"/api/webhooks/{endpoint['id']}{part}")
            assert response.status_code == 404
    assert client.post("/api/webhooks", BODY | {"queues": []}).status_code == 403
    assert client.post("/api/webhooks", BODY | {"queues": ["video"]}).status_code == 404
    schema = json.loads(ApiClient(None).get("/api/schema/", Accept="application/json").content)
    assert "404" in schema["paths"]["/api/webhooks"]["post"]["responses"]
    assert client.patch(f"/api/webhooks/{of_mail['id']}", {"queues": []}).status_code == 403
    own = create(client)
    assert (own["created_by"], own["created_by_key"]) == ("mail", key.row.pk)
    revoke_api_key(key_id=key.row.pk)
    assert ApiClient(ADMIN_KEY).get(f"/api/webhooks/{own['id']}").json()["enabled"]
    assert ApiClient(CLIENT_KEY).get("/api/webhooks").status_code == 403


def test_messages_are_tested_listed_and_sent_again(receiver: Receiver) -> None:
    client = ApiClient(ADMIN_KEY)
    path = f"/api/webhooks/{create(url=receiver.url)['id']}"
    tested = [client.post(f"{path}/test").json() for _ in range(3)]
    assert {each["state"] for each in tested} == {"pending"}
    receiver.status = 410
    send_due()

    first = client.get(f"{path}/deliveries?limit=2").json()
    second = client.get(first["next"]).json()
    assert [each["id"] for each in first["deliveries"] + second["deliveries"]] == sorted(
        (each["id"] for each in tested), reverse=True
    )
    (oldest,) = second["deliveries"]
    assert (oldest["state"], oldest["status"], oldest["event"]) == ("failed", 410, "webhook.test")
    assert json.loads(oldest["body"])["data"] == {"endpoint": path.rpartition("/")[2]}
    receiver.status = 200
    client.patch(path, {"enabled": True})
    failed = sum(each["state"] == "failed" for each in first["deliveries"]) + 1
    assert client.post(f"{path}/resend", {"deliveries": [0]}).status_code == 400
    assert client.post(f"{path}/resend", {"deliveries": [999_999]}).json()["code"] == "delivery_not_found"
    assert client.post(f"{path}/resend", {"failed": True}).json() == {"resent": failed}
    assert send_due() == 3
    assert client.post(f"{path}/resend", {"deliveries": [tested[0]["id"]]}).json() == {"resent": 1}


def test_a_deleted_endpoint_leaves_no_secret() -> None:
    path = f"/api/webhooks/{create(headers={'X-A': '1'})['id']}"

    assert ApiClient(ADMIN_KEY).delete(path).status_code == 200

    assert ApiClient(ADMIN_KEY).get(path).status_code == 404
    assert not SealedSecret.objects.exists()
    assert not covered("mail")


def test_a_rotation_of_the_master_key_includes_webhooks(settings) -> None:

    created = create(headers={"X-A": "1"})
    ApiClient(ADMIN_KEY).post(f"/api/webhooks/{created['id']}/rotate")
    old = settings.RUNQY_VAULT_MASTER_KEY
    settings.RUNQY_VAULT_MASTER_KEY = f"{'A' * 43}=,{old}"
    assert count_outdated() == 2
    assert get_vault_status().removable == ()

    assert sum(batch.rotated for batch in rotate_entries()) == 2

    settings.RUNQY_VAULT_MASTER_KEY = f"{'A' * 43}="
    assert count_outdated() == 0
    row = Endpoint.objects.get()
    assert created["secret"] in row.secret.unseal_valid(row.created_at)


def test_a_change_is_made_only_to_the_version_that_was_read() -> None:
    created, client = create(headers={"X-A": "1"}), ApiClient(ADMIN_KEY)
    path = f"/api/webhooks/{created['id']}"
    read = client.get(path)["ETag"]
    assert client.get(path, **{"If-None-Match": read}).status_code == 304
    changed = client.patch(path, {"headers": {"X-A": "2"}}, **{"If-Match": read})
    assert (changed.status_code, changed["ETag"]) == (200, client.get(path)["ETag"])
    disable_failing_endpoint(created["id"], "It is gone.")

    late = client.patch(path, {"events": ["task.archived"]}, **{"If-Match": changed["ETag"]})
    deleted = client.delete(path, **{"If-Match": read})

    assert [response.status_code for response in (late, deleted)] == [412, 412]
    assert client.get(path).json()["events"] == ["task.completed"]
    assert client.patch(path, {"kept": "drop"}).status_code == 400


@pytest.mark.parametrize("limit", ["ENDPOINTS_OF_KEY_MAX", "ENDPOINTS_OF_QUEUE_MAX"])
def test_the_endpoints_of_a_key_and_of_a_queue_are_limited(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(endpoint_rules, limit, 2)
    keys = [ApiClient(create_api_key(name=name, role=Role.ADMIN).plain) for name in ("a", "b")]
    mine, other = create(keys[0]), create(keys[0], queues=["video"])
    create(keys[1])

    statuses = {
        "by the key": keys[0].post("/api/webhooks", BODY | {"queues": ["video"]}).status_code,
        "of the queue": keys[1].post("/api/webhooks", BODY).status_code,
        "moved to the queue": keys[0].patch(f"/api/webhooks/{other['id']}", {"queues": ["mail"]}).status_code,
        "of what exists": keys[0].patch(f"/api/webhooks/{mine['id']}", {"in_flight": 2}).status_code,
    }

    by_key = {"by the key": 400, "of the queue": 201, "moved to the queue": 200, "of what exists": 200}
    by_queue = {"by the key": 201, "of the queue": 400, "moved to the queue": 400, "of what exists": 200}
    assert statuses == (by_key if limit == "ENDPOINTS_OF_KEY_MAX" else by_queue)
