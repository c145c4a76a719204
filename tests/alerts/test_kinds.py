"""Each kind of alert is raised by its cause, links to what it is about, and is resolved when the cause is gone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.links import get_alert_link
from alerts.models import Alert, AlertRule
from alerts.observations import QueueObservation
from alerts.operations import save_alert_rule, update_alerts
from alerts.rules import RULES
from batches.models import Batch
from queues.models import Queue, QueueSource, ReleaseState
from queues.operations import save_queue
from queues.releases import end_release, redeploy_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import Replacement, WorkerState
from runqy.configuration import snapshot
from runqy.configuration.publishing import republish_configuration
from runqy.maintenance.models import FailedRow
from schedules.definition_serializers import parse_schedule
from schedules.models import Fire, Schedule, ScheduleSource, failures
from schedules.operations import save_schedule
from tasks.history.record import record_drops
from tasks.history.rows import QueueIdentity
from tasks.models import QueueMinute
from tests.queues.samples import spec
from tests.support.full_redis import filled_redis
from tests.support.maintenance_duties import put
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.secret_leaks import SUITE
from tests.support.servers import free_port
from tests.support.staff import staff_client
from tests.support.workers import RECORD
from vaults.models import VaultEntry
from vaults.operations import create_vault, delete_vault, set_entry
from webhooks.messages import build_delivery, save_deliveries
from webhooks.models import Delivery, Endpoint
from webhooks.operations import change_endpoint, create_endpoint, disable_failing_endpoint

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")
WORKER = replace(RECORD, worker_id="mail/1", queue="mail", redis_queues={"mail": 1})
HAS_TURN: dict[str, Any] = {"replacement": Replacement.RUNNING, "replacement_s": 90}


_filled = ExitStack()


@pytest.fixture(autouse=True)
def _empties_redis() -> Iterator[None]:
    yield
    _filled.close()


@dataclass(frozen=True, kw_only=True)
class Cause:
    """How an alert comes about and goes away, its message, and a text of the page that it links to."""

    arrange: Callable[[Broker], object]
    remove: Callable[[Broker], object]
    message: str
    shown: str


def beat(broker: Broker, *, seconds_ago: int = 0, **fields: Any) -> None:
    broker.run(write_heartbeat(replace(WORKER, **fields), now_ns=broker.now_ns() - seconds_ago * 10**9))


def miss_fire(broker: Broker, state: str = Fire.State.MISSED) -> None:
    spec, requested = parse_schedule({"name": "nightly", "queue": "mail", "cron": "@daily"})
    row, _ = save_schedule(broker, spec=spec, requested=requested, source=ScheduleSource.API)
    if state == Fire.State.MISSED:
        Schedule.objects.update(problem="The queue mail is disabled and accepts no tasks.")
    now = broker.now()
    times = {"due_at": now, "fire_at": now, "until": now, "settled_at": now}
    Fire.objects.create(schedule=row, number=1, state=state, requested_s=broker.now_s(), **times)


def fail_row() -> None:
    with failures.isolate(7, name="nightly", queue="mail"):
        raise ZeroDivisionError


def put_with_rule(broker: Broker) -> None:
    save_alert_rule(AlertRule(kind=AlertKind.OLDEST_PENDING.value, threshold=0))
    task = NewTask(id="waiting-task", queue="mail", payload=b"{}")
    broker.run(enqueue(task, now_ns=broker.now_ns() - 60 * 10**9))


def leave_ends(broker: Broker, kind: AlertKind) -> None:
    save_alert_rule(AlertRule(kind=kind.value, threshold=2))
    for _ in range(2):
        redis_of(broker).xadd(QueueKeys("mail").ends, {"end": ""})


def grow(broker: Broker) -> None:
    put(broker, "waiting-task", "mail")
    minute = timezone.now().replace(second=0, microsecond=0)
    for back in range(12):
        backlog = 290 - 20 * back  # so that another minute may begin before it is observed
        QueueMinute.objects.create(
            redis_queue="mail",
            queue="mail",
            start=minute - timedelta(minutes=back),
            backlog=backlog,
            backlog_max=backlog,
        )


def fail(broker: Broker) -> None:
    insert_runs(*[make_failure("KeyError: 'customer'") for _ in range(12)], queue="mail")


def lock_out(broker: Broker) -> None:
    """Let the queue use a vault whose entry was altered."""
    create_vault(name="keys")
    entry = set_entry(vault="keys", key="TOKEN", value=SUITE.secret())
    *unchanged, last = bytes(entry.ciphertext)
    VaultEntry.objects.update(ciphertext=bytes([*unchanged, last ^ 1]))
    set_entry(vault="keys", key="OTHER", value="1")  # publishes the vault
    deployment = replace(spec("mail").deployment, vaults=("keys",))
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)


def fill_redis(broker: Broker) -> None:
    _filled.enter_context(filled_redis(redis_of(broker), use=0.925))  # type: ignore[arg-type]


def make_key_of_inactive_user() -> None:
    user = User.objects.create_user("carol", is_active=False)
    with actor_context(Actor(kind=ActorKind.USER, name="carol", id=str(user.pk))):
        create_api_key(name="shop", role="client")


def create_example_endpoint() -> Endpoint:
    return create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row


def add_late_message() -> None:
    now = timezone.now() - timedelta(minutes=6)
    about = {"message": "m", "event": "task.completed", "data": {}}
    save_deliveries([build_delivery(endpoint=create_example_endpoint(), now=now, **about)])


def drop_messages() -> None:
    endpoint = create_example_endpoint()
    disable_failing_endpoint(endpoint.pk, "It is gone.")
    Endpoint.objects.update(dropped=1500)


def drop(broker: Broker) -> None:
    insert_runs(make_run(task_id="kept-task"), queue="mail")
    record_drops(QueueIdentity(redis_queue="mail", queue="mail"), None, appended=6, left=0)


def fail_over(broker: Broker) -> None:
    """Let the server get a new replication id as a promoted replica does."""
    insert_runs(make_run(task_id="kept-task"), queue="mail")
    update_alerts(broker)
    redis_of(broker).replicaof("127.0.0.1", str(free_port()))
    redis_of(broker).replicaof("NO", "ONE")


CAUSES = {
    AlertKind.NO_READY_WORKER: Cause(
        arrange=lambda broker: (put(broker, "waiting-task", "mail"), beat(broker, state=WorkerState.DEPLOYING)),
        remove=beat,
        message="Queue mail has 1 pending task and no ready worker.",
        shown=WORKER.worker_id,
    ),
    AlertKind.OLDEST_PENDING: Cause(
        arrange=put_with_rule,
        remove=lambda broker: redis_of(broker).delete(QueueKeys("mail").pending),
        message="The oldest pending task of queue mail has been waiting for",
        shown="waiting-task",
    ),
    AlertKind.FAILURE_RATE: Cause(
        arrange=fail,
        remove=lambda broker: QueueMinute.objects.all().delete(),
        message="100 % of the tasks of queue mail that ended in the last 5 minutes failed (12 of 12; 12 new tasks).",
        shown="KeyError",
    ),
    AlertKind.BACKLOG_GROWING: Cause(
        arrange=grow,
        remove=lambda broker: QueueMinute.objects.all().delete(),
        message="The backlog of queue mail grew by about 20 tasks a minute in the last 10 minutes, to 2",
        shown="waiting-task",
    ),
    AlertKind.WORKER_MISSING: Cause(
        arrange=lambda broker: beat(broker, seconds_ago=40),
        remove=beat,
        message="Worker mail/1 has sent no heartbeat for",
        shown="no heartbeat has reached Redis since",
    ),
    AlertKind.WORKER_START_FAILED: Cause(
        arrange=lambda broker: beat(broker, state=WorkerState.START_FAILED, reason="no such branch"),
        remove=beat,
        message="Worker mail/1 failed to start: no such branch",
        shown="no such branch",
    ),
    AlertKind.WORKER_NOT_CONSUMING: Cause(
        arrange=lambda broker: (put(broker, "waiting-task", "mail"), beat(broker, free_slots=1)),
        remove=lambda broker: beat(broker, free_slots=1, last_take_s=broker.now_s()),
        message="Worker mail/1 is ready and has free slots, but dequeues nothing although tasks are pending (mail: 1).",
        shown=WORKER.worker_id,
    ),
    AlertKind.FIRE_MISSED: Cause(
        arrange=miss_fire,
        remove=lambda broker: Schedule.objects.update(problem=""),
        message="The schedule nightly enqueued nothing: The queue mail is disabled and accepts no tasks.",
        shown="nightly",
    ),
    AlertKind.ENQUEUE_UNKNOWN: Cause(
        arrange=lambda broker: miss_fire(broker, state=Fire.State.UNKNOWN),
        remove=lambda broker: Fire.objects.all().delete(),
        message="It is unknown whether tasks were enqueued: 1 schedule fire. Enqueue what is missing.",
        shown="nightly",
    ),
    AlertKind.HISTORY_DROPPED: Cause(
        arrange=drop,
        remove=lambda broker: QueueMinute.objects.all().delete(),
        message="6 runs of queue mail were found to be missing from the history in the last 10 minutes.",
        shown="kept-task",
    ),
    AlertKind.VAULT_UNREADABLE: Cause(
        arrange=lock_out,
        remove=lambda broker: set_entry(vault="keys", key="TOKEN", value=SUITE.secret()),
        message="Workers cannot register for queue mail. The entry keys/TOKEN cannot be decrypted with",
        shown="1 entry cannot be decrypted.",
    ),
    **{
        kind: Cause(
            arrange=partial(leave_ends, kind=kind),
            remove=lambda broker: redis_of(broker).delete(QueueKeys("mail").ends),
            message="2 ends of tasks of mail wait to be told to webhooks and batches. From 10,000 on their results are "
            "left out; at 1,000,000 no task of it is enqueued that tells its end.",
            shown="mail",
        )
        for kind in (AlertKind.ENDS_BACKLOG, AlertKind.ENDS_NEARLY_FULL)
    },
    AlertKind.RELEASE_REVERTED: Cause(
        arrange=lambda _: end_release(
            redeploy_queue(name="mail"), ReleaseState.FAILED, reason="mail/1 could not start it: no such branch"
        ),
        remove=lambda _: redeploy_queue(name="mail"),
        message="Release 1 of mail was reverted. mail/1 could not start it: no such branch",
        shown="could not start it",
    ),
    AlertKind.REPLACEMENT_STALLED: Cause(
        arrange=lambda broker: beat(broker, **HAS_TURN, reason="no such model"),
        remove=lambda broker: beat(broker, **HAS_TURN, state=WorkerState.STARTING, reason="loading for 1 min"),
        message="Processes of queue mail still have the environment before its last change. Worker mail/1 has had its "
        "turn to replace them for 1 min: no such model.",
        shown="replaces processes",
    ),
    AlertKind.BATCH_INCOMPLETE: Cause(
        arrange=lambda _: Batch.objects.create(
            name="import",
            created_by={"name": "ann"},
            created_at=timezone.now(),
            callback_state="refused",
            callback_reason="payload: wrong",
            has_problem=True,
        ),
        remove=lambda _: Batch.objects.all().delete(),
        message="The callback of batch import was not enqueued: payload: wrong",
        shown="import",
    ),
    AlertKind.ROW_FAILED: Cause(
        arrange=lambda _: fail_row(),
        remove=lambda _: failures.forget(7),
        message="Maintenance cannot handle the schedule nightly (ZeroDivisionError). It is left out until ",
        shown="Maintenance cannot handle the schedule nightly",
    ),
    AlertKind.BATCH_ABANDONED: Cause(
        arrange=lambda _: Batch.objects.create(
            name="import", created_by={"name": "ann"}, created_at=timezone.now(), is_closed=True, is_abandoned=True
        ),
        remove=lambda _: Batch.objects.all().delete(),
        message="Batch import by ann was closed by the server: nothing was added for seven days.",
        shown="import",
    ),
    AlertKind.REDIS_MEMORY: Cause(
        arrange=fill_redis,
        remove=lambda broker: _filled.close(),
        message="Redis uses 9",
        shown="mail",
    ),
    AlertKind.WEBHOOK_LATE: Cause(
        arrange=lambda broker: add_late_message(),
        remove=lambda broker: Delivery.objects.all().delete(),
        message="Messages to the webhook endpoint https://hooks.example.com/x have been due for more than 5 minutes, "
        "although it accepts others: it gets 16 at once.",
        shown="Deliveries",
    ),
    AlertKind.WEBHOOK_FAILING: Cause(
        arrange=lambda broker: Endpoint.objects.filter(pk=create_example_endpoint().pk).update(
            failing_since=timezone.now() - timedelta(minutes=16)
        ),
        remove=lambda broker: Endpoint.objects.update(failing_since=None),
        message="All messages to the webhook endpoint https://hooks.example.com/x have failed since ",
        shown="failing",
    ),
    AlertKind.WEBHOOK_DROPPED: Cause(
        arrange=lambda broker: drop_messages(),
        remove=lambda broker: change_endpoint(Endpoint.objects.get().pk, is_enabled=True),
        message="Messages to the disabled webhook endpoint https://hooks.example.com/x were dropped: 1,500.",
        shown="1500 were dropped",
    ),
    AlertKind.WEBHOOK_DISABLED: Cause(
        arrange=lambda broker: disable_failing_endpoint(create_example_endpoint().pk, "It is gone."),
        remove=lambda broker: change_endpoint(Endpoint.objects.get().pk, is_enabled=True),
        message="The webhook endpoint https://hooks.example.com/x is disabled. It is gone.",
        shown="It is gone.",
    ),
    AlertKind.INACTIVE_KEY_CREATOR: Cause(
        arrange=lambda broker: make_key_of_inactive_user(),
        remove=lambda broker: revoke_api_key(key_id=ApiKey.objects.get().pk),
        message="API keys of users who are deleted, inactive or may no longer create keys, or created with these keys",
        shown="shop",
    ),
    AlertKind.REDIS_FAILOVER: Cause(
        arrange=fail_over,
        remove=lambda broker: advance(days=1),
        message="Redis failed over to a replica or started from a snapshot (detected at ",
        shown="kept-task",
    ),
    AlertKind.SHARED_DEATHS: Cause(
        arrange=lambda broker: beat(broker, shared_deaths=3, shared_death_tasks=32),
        remove=beat,
        message="Queue mail dies at concurrency 32: 3 processes died in the last 10 minutes while running at least",
        shown="3 in the last 10 minutes",
    ),
    AlertKind.CONFIGURATION_NOT_PUBLISHED: Cause(
        arrange=lambda broker: redis_of(broker).delete(keys.CONFIG_REVISIONS),
        remove=lambda broker: republish_configuration(),
        message="Some changes are not published yet,",
        shown="not published",
    ),
}


def advance(**span: int) -> None:
    """Let the stored alerts be as old as if time had passed."""
    past = timedelta(**span)
    Alert.objects.update(since=F("since") - past, seen_at=F("seen_at") - past)


def test_every_kind_has_a_cause() -> None:
    assert set(CAUSES) == set(AlertKind)


@pytest.mark.parametrize("kind", CAUSES)
def test_an_alert_is_opened_linked_and_resolved(kind: AlertKind, single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    cause = CAUSES[kind]

    cause.arrange(single_broker)
    update_alerts(single_broker)
    advance(seconds=61)
    update_alerts(single_broker)

    alert = Alert.objects.get(kind=kind, opened_at__isnull=False)
    assert alert.message.startswith(cause.message)
    url, _ = get_alert_link(alert)
    assert cause.shown in staff_client("admin").get(url, follow=True).content.decode()

    cause.remove(single_broker)
    snapshot.forget()
    advance(minutes=2)
    update_alerts(single_broker)

    assert Alert.objects.get(pk=alert.pk).resolved_at is not None


def test_an_alert_about_a_missing_vault_links_to_the_queue(single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    lock_out(single_broker)
    delete_vault(name="keys")
    update_alerts(single_broker)

    url, _ = get_alert_link(Alert.objects.get(kind=AlertKind.VAULT_UNREADABLE))

    assert "The vault keys does not exist" in staff_client("operator").get(url, follow=True).content.decode()


def test_the_failures_of_an_alert_are_found_when_it_was_resolved_long_ago(single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    fail(single_broker)
    update_alerts(single_broker)
    at = timezone.now()
    insert_runs(make_failure("LaterError: no", ended_ns=single_broker.now_ns() + 3600 * 10**9), queue="mail")
    Alert.objects.update(resolved_at=at + timedelta(minutes=6))

    url, _ = get_alert_link(Alert.objects.get(kind=AlertKind.FAILURE_RATE))

    page = staff_client("viewer").get(url).content.decode()
    assert ("KeyError" in page, "LaterError" in page) == (True, False)


def test_retries_of_a_few_failing_tasks_open_no_alert_when_the_others_have_ended(single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    retried = {"outcome": RunOutcome.RETRIED, "is_final": False}
    insert_runs(*[make_failure(task_id=f"t{n}", attempt=2 + at, **retried) for n in range(15) for at in range(3)])
    insert_runs(*[make_failure(task_id=f"t{n}", attempt=5) for n in range(15)])

    update_alerts(single_broker)
    assert not Alert.objects.filter(kind=AlertKind.FAILURE_RATE).exists()

    insert_runs(*[make_run() for _ in range(25)])
    update_alerts(single_broker)
    message = "38 % of the tasks of queue mail that ended in the last 5 minutes failed (15 of 40; 25 new tasks)."
    assert Alert.objects.get(kind=AlertKind.FAILURE_RATE).message == message


@pytest.mark.parametrize(
    ("reported", "expected"), [("map[mail_high:5 mail_low:1]", []), ("map[mail_high:5 other:2]", [""]), ("map[]", [""])]
)
def test_a_rule_of_a_queue_applies_to_its_go_workers(
    single_broker: Broker, redis: Any, reported: str, expected: list[str]
) -> None:
    save_queue(spec=spec("mail", "high:5", "low:1"), source=QueueSource.API)
    save_queue(spec=spec("other"), source=QueueSource.API)
    save_alert_rule(
        AlertRule(kind=AlertKind.WORKER_START_FAILED.value, queue=Queue.objects.get(name="mail"), is_enabled=False)
    )
    fields = {"worker_id": "vm:17", "queues": reported, "healthy": "false", "last_beat": single_broker.now_s()}
    redis.zadd(keys.WORKERS, {"vm:17": single_broker.now_s() + 60})
    redis.hset(keys.go_worker("vm:17"), mapping=fields)

    update_alerts(single_broker)

    assert [alert.queue for alert in Alert.objects.filter(subject="vm:17", resolved_at=None)] == expected


def test_an_alert_and_a_worker_that_raise_cost_no_other_queue_its_alert(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mail", "video"):
        save_queue(spec=spec(name), source=QueueSource.API)
        single_broker.run(
            enqueue(NewTask(id="t", queue=name, payload=b"{}"), now_ns=single_broker.now_ns() - 900 * 10**9)
        )
    now = timezone.now()
    Alert.objects.create(kind="of a later release", subject="mail", level="warning", since=now, seen_at=now)
    check = RULES[AlertKind.OLDEST_PENDING].check

    def raise_for_mail(queue: QueueObservation, threshold: float) -> str | None:
        return str(1 / 0) if queue.name == "mail" else check(queue, threshold)

    monkeypatch.setitem(RULES, AlertKind.OLDEST_PENDING, replace(RULES[AlertKind.OLDEST_PENDING], check=raise_for_mail))
    for _ in range(2):
        update_alerts(single_broker)

    opened = set(Alert.objects.filter(opened_at__isnull=False).values_list("kind", "queue"))
    assert ("oldest_pending", "video") in opened
    assert ("row_failed", "mail") in opened
    assert sorted(FailedRow.objects.values_list("error", "times")) == [("ValueError", 1), ("ZeroDivisionError", 1)]
