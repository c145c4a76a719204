"""Schedules over HTTP."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.core.api_keys import Role
from runqy.errors import BrokerUnavailable
from schedules import operations, runner
from schedules.models import Fire, Schedule
from tests.api.client import ApiClient
from tests.queues.samples import spec as queue_spec
from tests.schedules.conftest import Times
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.staff import staff_client
from tests.support.tasks import listed, take_one
from tests.tasks.task_helpers import fail_for_good, succeed

pytestmark = pytest.mark.usefixtures("queues")
BODY: dict[str, Any] = {
    "name": "nightly",
    "queue": "mail",
    "payload": {"n": 1},
    "cron": "30 2 * * mon-fri",
    "time_zone": "Europe/Berlin",
    "options": {"max_retry": 2},
}
PATH = "/api/schedules/nightly"


def test_a_schedule_is_created_shown_replaced_and_deleted(times: Times) -> None:
    client = ApiClient(ADMIN_KEY)
    created = client.post("/api/schedules", BODY)
    again = client.post("/api/schedules", BODY)

    replaced = client.put(PATH, {"queue": "mail", "every": "15m", "jitter": "10s"})
    shown = client.get(PATH).json()
    found = client.get("/api/schedules").json()
    deleted = client.delete(PATH)

    content = created.json()
    assert (created.status_code, created["Location"]) == (201, PATH)
    assert (content["cron"], content["payload"], content["state"]) == ("30 2 * * MON-FRI", {"n": 1}, "active")
    assert len(content["next"]) == 5
    assert content["created_by"] == {"kind": "key", "name": "admin key of the environment"}
    assert (again.status_code, again.json()["code"]) == (409, "schedule_exists")
    assert (replaced.status_code, replaced.json()) == (200, shown)
    assert (shown["every"], shown["cron"], shown["payload"], shown["jitter"]) == (900, None, {}, 10)
    assert [each["name"] for each in found["schedules"]] == ["nightly"]
    assert (deleted.status_code, client.get(PATH).status_code) == (200, 404)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": None}, "One of cron and every is required."),
        ({"every": 60}, "cron and every are mutually exclusive."),
        ({"cron": None, "every": "5s"}, "every: Must be at least 10s, is 5s."),
        ({"cron": None, "every": -5}, "every: Must be at least 10s, is -5s."),
        ({"jitter": "2h"}, "jitter: Must be at most 1h, is 2h."),
        ({"cron": "61 * * * *"}, "cron: The minute '61' must be 0 to 59"),
        ({"cron": "0 0 30 2 *"}, "cron: The day of month '30' must be 1 to 31, a day that the month has"),
        ({"cron": "@often"}, "cron: @often is unknown."),
        ({"cron": "* * * *"}, "cron: Must have five fields"),
        ({"time_zone": "Berlin"}, 'time_zone: Must be a time zone of the IANA database: did you mean "Europe/Berlin"?'),
        ({"time_zone": "Rome 2"}, "time_zone: Must be a time zone of the IANA database, such as"),
        ({"options": {"retries": 1}}, "options.retries: Unknown option."),
        ({"options": {"process_at": "2026-01-01T00:00:00Z"}}, "options.process_at: Each fire has a time of its own"),
        ({"options": {"timeout": "soon"}}, "options.timeout: 'soon' is not a duration"),
        ({"options": {"on_conflict": "reject"}}, "options.on_conflict: requires unique_key."),
        ({"queue": "nowhere"}, "No queue 'nowhere'"),
        ({"catch_up_window": "23h"}, "catch_up_window: Must be at most 22h, is 23h."),
        ({"starts_at": "2027-01-01T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}, "ends_at: Must be after starts_at."),
        ({"ends_at": "2026-01-01T00:00:00Z"}, "ends_at: Is in the past, so it would never be due."),
        ({"name": "a b"}, "name: Use 1 to 100 letters"),
        ({"tz": "UTC"}, "tz: Unknown field."),
    ],
)
def test_wrong_input_is_refused_with_its_field(changes: dict[str, Any], message: str) -> None:
    response = ApiClient(ADMIN_KEY).post("/api/schedules", BODY | changes)

    assert response.status_code in (400, 404)
    assert message in response.json()["detail"]
    assert not Schedule.objects.exists()


def test_an_ended_schedule_can_still_be_saved_with_its_times(times: Times) -> None:
    client, ends_at = ApiClient(ADMIN_KEY), (times.now + timedelta(hours=1)).isoformat()
    body = {"queue": "mail", "every": "10m", "ends_at": ends_at}
    created = client.put(PATH, body)
    times.run_in(hours=2)

    saved = client.put(PATH, body | {"payload": {"n": 2}})
    retimed = client.put(PATH, body | {"every": "20m"})

    assert (created.status_code, saved.status_code, saved.json()["state"]) == (201, 200, "ended")
    assert (retimed.status_code, retimed.json()["errors"]) == (
        400,
        ["ends_at: Is in the past, so it would never be due."],
    )


def test_a_schedule_shows_its_last_fire_and_why_it_did_nothing(
    single_broker: Broker, times: Times, save: Callable[..., Schedule]
) -> None:
    save(name="fails", cron="0 13 * * *")
    save(name="waits", cron="1 13 * * *", queue="full")
    save(name="overlaps", cron="1/2 13 * * *")
    save(name="works", cron="1/2 13 * * *")
    save_queue(spec=queue_spec("full", is_enabled=False), source=QueueSource.API)
    times.run_in(hours=1)
    fail_for_good(single_broker, take_one(single_broker, "mail"), "no")
    times.run_in(minutes=1)
    for _ in range(2):
        if (taken := take_one(single_broker, "mail")).message.id == str(
            Fire.objects.get(schedule__name="works").task_id
        ):
            succeed(single_broker, taken, b"1")
    times.run_in(minutes=2)

    listed = {each["name"]: each for each in ApiClient(ADMIN_KEY).get("/api/schedules").json()["schedules"]}
    page = staff_client("viewer").get("/admin/schedules/schedule/").content.decode()

    problems = {name: each["problem"] for name, each in listed.items()}
    assert (problems["fails"], problems["works"]) == ("The task of the last fire failed.", None)
    assert problems["overlaps"].startswith("The last fire is skipped: Task ")
    assert problems["waits"].startswith("The last fire is waiting: ")
    states = {name: (each["last_fire"]["state"], each["last_fire"]["task_state"]) for name, each in listed.items()}
    assert (states["fails"], states["works"]) == (("enqueued", "archived"), ("enqueued", "pending"))
    for text in ("The task of the last fire failed.", "The last fire is waiting: ", ">archived<"):
        assert text in "".join(line.strip() for line in page.splitlines())


def test_a_payload_is_checked_by_the_schema_of_the_queue() -> None:
    field = PayloadField(name="to", type=(FieldType.STRING,), required=True)
    save_queue(spec=queue_spec("mail", input=(field,)), source=QueueSource.API)

    response = ApiClient(ADMIN_KEY).post("/api/schedules", BODY)

    assert (response.status_code, response.json()["code"]) == (400, "payload_invalid")
    assert response.json()["errors"] == ["payload.to: This field is required."]


def test_trigger_enqueues_at_once_and_the_fire_shows_its_task(single_broker: Broker, times: Times) -> None:
    client = ApiClient(ADMIN_KEY)
    client.post("/api/schedules", BODY)

    response = client.post(f"{PATH}/trigger")
    taken = take_one(single_broker, "mail")
    succeed(single_broker, taken, b"1")
    (fire,) = client.get(f"{PATH}/fires").json()["fires"]

    assert (response.status_code, response.json()["state"]) == (201, "enqueued")
    assert (fire["task_id"], fire["task_state"], fire["triggered"]) == (taken.message.id, "completed", True)


def test_a_trigger_that_redis_interrupts_is_answered_as_made(
    single_broker: Broker, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ApiClient(ADMIN_KEY)
    client.post("/api/schedules", BODY)

    def lose_connection(*_: object) -> None:
        raise BrokerUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(runner, "enqueue_intents", lose_connection)
        response = client.post(f"{PATH}/trigger")
    times.run_in(seconds=15)
    (fire,) = client.get(f"{PATH}/fires").json()["fires"]

    assert (response.status_code, response.json()["state"]) == (201, "waiting")
    assert (fire["state"], listed(single_broker, "mail")) == ("enqueued", {"pending": [fire["task_id"]]})


def test_pause_shows_its_reason_and_unpause_counts_from_now(times: Times) -> None:
    client = ApiClient(ADMIN_KEY)
    client.post("/api/schedules", BODY)

    paused = client.post(f"{PATH}/pause", {"reason": "holiday"}).json()
    unpaused = client.post(f"{PATH}/unpause").json()

    assert (paused["state"], paused["paused_reason"], paused["next"]) == ("paused", "holiday", [])
    assert (unpaused["state"], unpaused["paused_reason"], len(unpaused["next"])) == ("active", None, 5)


def test_a_key_limited_to_queues_uses_only_their_schedules() -> None:
    everything = ApiClient(ADMIN_KEY)
    everything.post("/api/schedules", BODY)
    created = create_api_key(name="team", role=Role.ADMIN, queues=["full"])
    limited = ApiClient(created.plain)
    own = BODY | {"name": "own", "queue": "full"}

    statuses = {
        "other queue": limited.post("/api/schedules", BODY | {"name": "x"}).status_code,
        "of another": limited.put(PATH, own | {"name": "nightly"}).status_code,
        "show": limited.get(PATH).status_code,
        "pause": limited.post(f"{PATH}/pause", {"reason": "holiday"}).status_code,
        "trigger": limited.post(f"{PATH}/trigger").status_code,
        "delete": limited.delete(PATH).status_code,
        "own": limited.post("/api/schedules", own).status_code,
        "client": ApiClient(CLIENT_KEY).get("/api/schedules").status_code,
    }
    names = [each["name"] for each in limited.get("/api/schedules").json()["schedules"]]

    assert statuses.pop("of another") == 409
    others = ("other queue", "show", "pause", "trigger", "delete")
    assert statuses == {**dict.fromkeys(others, 404), "own": 201, "client": 403}
    assert names == ["own"]


def test_revoking_a_key_stops_nothing_that_it_made(single_broker: Broker, times: Times) -> None:
    created = create_api_key(name="gone", role=Role.ADMIN)
    ApiClient(created.plain).post("/api/schedules", BODY | {"cron": "0 13 * * *", "time_zone": "UTC"})
    revoke_api_key(key_id=ApiKey.objects.get(name="gone").pk)

    times.run_in(hours=1)

    assert [fire.state for fire in Fire.objects.all()] == ["enqueued"]
    assert len(listed(single_broker, "mail")["pending"]) == 1
    assert ApiClient(ADMIN_KEY).get(PATH).json()["created_by"] == {"kind": "key", "name": "gone"}


def test_the_schedule_of_a_deleted_queue_is_broken() -> None:
    client = ApiClient(ADMIN_KEY)
    client.post("/api/schedules", BODY)
    client.delete("/api/cli/configs/mail?force=true")

    assert client.get(PATH).json()["state"] == "broken"


def test_the_answer_about_a_name_of_another_queue_says_nothing_about_its_schedule(queues: None) -> None:
    ApiClient().post("/api/schedules", BODY)
    key = create_api_key(name="limited", role=Role.CONFIGURATOR, queues=["full"])
    limited, own = ApiClient(key.plain), {**BODY, "queue": "full"}

    answers = [limited.post("/api/schedules", own), limited.put(PATH, {**own, "every": "5m", "cron": None})]

    assert {(each.status_code, each.json()["code"], each.json()["detail"]) for each in answers} == {
        (409, "schedule_name_taken", "This name cannot be used; choose another one.")
    }


def test_a_pause_needs_no_reason(queues: None) -> None:
    client = ApiClient()
    client.post("/api/schedules", BODY)

    paused = client.post(f"{PATH}/pause")

    assert (paused.status_code, paused.json()["state"], paused.json()["paused_reason"]) == (200, "paused", None)


def test_a_definition_that_was_changed_meanwhile_is_neither_replaced_nor_deleted() -> None:
    client = ApiClient(ADMIN_KEY)
    old = client.post("/api/schedules", BODY)["ETag"]
    new = client.put(PATH, BODY | {"cron": "@daily"}, **{"If-Match": old})["ETag"]

    refused = [client.put(PATH, BODY, **{"If-Match": old}), client.delete(PATH, **{"If-Match": old})]
    shown = client.get(PATH, **{"If-None-Match": new})

    assert {(each.status_code, each.json()["code"]) for each in refused} == {(412, "precondition_failed")}
    assert (shown.status_code, shown["ETag"], shown.json()["cron"]) == (200, new, "0 0 * * *")
    assert client.delete(PATH, **{"If-Match": new}).status_code == 200


def test_unpausing_what_is_not_paused_changes_nothing() -> None:
    client = ApiClient(ADMIN_KEY)
    client.post("/api/schedules", BODY)
    before, records = Schedule.objects.values().get(), AuditRecord.objects.count()

    assert client.post(f"{PATH}/unpause").status_code == 200
    assert (Schedule.objects.values().get(), AuditRecord.objects.count()) == (before, records)


def test_schedules_are_limited_by_key_and_by_queue_and_those_that_exist_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_SCHEDULES_BY_KEY", 2)
    monkeypatch.setattr(operations, "MAX_SCHEDULES_BY_QUEUE", 3)
    keys = [create_api_key(name=name, role=Role.ADMIN, queues=["mail", "full"]).plain for name in ("one", "two")]
    first, second = map(ApiClient, keys)

    def create(client: ApiClient, name: str, queue: str = "mail") -> int:
        return client.post("/api/schedules", BODY | {"name": name, "queue": queue}).status_code

    created = [create(first, "a"), create(first, "b"), create(first, "c"), create(second, "d"), create(second, "e")]
    refused = second.post("/api/schedules", BODY | {"name": "f"}).json()

    assert created == [201, 201, 409, 201, 409]
    assert (refused["code"], refused["detail"]) == (
        "object_limit_reached",
        "The queue mail has 3 schedules, the most that a queue may have.",
    )
    assert create(second, "e", "full") == 201
    assert first.put("/api/schedules/a", BODY | {"name": "a", "cron": "@daily"}).status_code == 200
