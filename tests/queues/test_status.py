"""The status of queues."""

from typing import Any

import pytest
import redis as redis_py

from queues.models import Queue, QueueSource
from queues.operations import save_queue
from queues.pausing import pause_queue, pause_whole_queue
from queues.status import QueueLoad, QueueStatus, get_queue_statuses
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.constants import HEARTBEAT_TTL_S
from runqy.broker.keys import QueueKeys
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerCounts, WorkerRecord, WorkerState
from runqy.configuration.publishing import SyncStatus, compare_configuration
from runqy.redis_connection import get_broker
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.queues.test_operations import RICH
from tests.support.links import count_round_trips

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")


def look(name: str = "mail", comparison: SyncStatus | None = None) -> QueueStatus:
    specs = [queue.as_spec() for queue in Queue.objects.all()]
    return get_queue_statuses(get_broker(), specs, comparison)[name]


def saved(one: Any) -> None:
    save_queue(spec=one, source=QueueSource.ADMIN)


def serve(worker_id: str, *redis_queues: str, ago_s: int = 0, **values: Any) -> None:
    """Store the record of a worker whose last heartbeat was a while ago."""
    broker = get_broker()
    record = WorkerRecord(
        worker_id=worker_id,
        host=f"host-of-{worker_id}",
        pid=1,
        server_id=worker_id,
        queue="mail",
        redis_queues=dict.fromkeys(redis_queues, 1),
        started_at_s=1,
        **{"state": WorkerState.READY} | values,
    )
    broker.run(write_heartbeat(record, now_ns=broker.now_ns() - ago_s * 10**9))


def test_a_worker_of_several_sub_queues_counts_once_and_a_stale_one_does_not_count() -> None:
    saved(spec("mail", "high:9", "low:1"))
    saved(spec("video"))
    serve("b", "mail_high", "mail_low")
    serve("a", "mail_low")
    serve("silent", "mail_low", ago_s=HEARTBEAT_TTL_S + 5)

    assert [worker.worker_id for worker in look().workers] == ["a", "b"]
    assert look("video").workers == ()


def test_workers_that_are_not_ready_are_counted_apart() -> None:
    saved(spec("mail"))
    serve("ready", "mail")
    serve("deploying", "mail", state=WorkerState.DEPLOYING)
    serve("failed", "mail", state=WorkerState.START_FAILED)
    serve("silent", "mail", ago_s=HEARTBEAT_TTL_S + 5)

    assert look().worker_counts == WorkerCounts(ready=1, not_ready=2)


def test_the_load_is_that_of_its_own_workers_and_leaves_out_what_none_reports() -> None:
    saved(spec("mail"))
    assert look().load == QueueLoad(
        slots=0, running=0, processes=0, mean_batch=0, shared_deaths=0, shared_death_tasks=0
    )
    serve("a", "mail", concurrency=8, processes=2, mean_running=1.5, mean_batch=1.0)
    serve("b", "mail", concurrency=4, processes=1, mean_batch=2.0, shared_deaths=1, shared_death_tasks=5)
    serve("c", "mail", concurrency=1, processes=1, shared_deaths=2, shared_death_tasks=3)

    assert look().load == QueueLoad(
        slots=13, running=1.5, processes=4, mean_batch=1.5, shared_deaths=3, shared_death_tasks=3
    )


def test_tasks_of_all_sub_queues_are_counted_by_state(redis: redis_py.Redis) -> None:
    saved(spec("mail", "high:9", "low:1"))
    redis.lpush(QueueKeys("mail_high").pending, "a", "b")
    redis.zadd(QueueKeys("mail_low").retry, {"c": 1})
    redis.lpush(QueueKeys("mail_low").active, "d")
    redis.zadd(QueueKeys("mail_low").archived, {"e": 1, "f": 2})

    status = look()

    found = {state: count for state, count in status.tasks.items() if count}
    assert found == {"pending": 2, "retry": 1, "active": 1, "archived": 2}


def test_a_partly_paused_queue_is_distinguished_from_a_paused_one() -> None:
    saved(spec("mail", "high:9", "low:1"))
    assert not look().is_paused

    pause_queue(get_broker(), name="mail_low")
    assert (look().is_paused, look().is_wholly_paused) == (True, False)

    pause_whole_queue(get_broker(), name="mail")
    assert look().is_wholly_paused


def test_a_queue_is_not_published_if_redis_lacks_it_or_one_of_its_vaults() -> None:
    saved(spec("mail"))
    saved(RICH)

    def published(comparison: SyncStatus | None) -> list[bool | None]:
        return [look(name, comparison).is_published for name in ("inference", "mail")]

    assert published(compare_configuration()) == [True, True]
    assert published(SyncStatus(outdated=["queue:mail"])) == [True, False]
    assert published(SyncStatus(altered=["vault:c"])) == [False, True]
    assert published(None) == [None, None]


def test_missing_vaults_are_named() -> None:
    saved(RICH)

    assert len(look("inference").vault_errors) == 3


def test_there_are_no_counts_while_redis_is_unavailable(settings) -> None:
    saved(spec("mail"))
    look()
    settings.REDIS_TARGET = away()

    status = look()

    assert status.counts is None
    assert not status.is_wholly_paused


def test_the_number_of_round_trips_is_constant(monkeypatch: pytest.MonkeyPatch, single_broker: Broker) -> None:
    for number in range(20):
        saved(spec(f"queue-{number}", "high:2", "low:1"))
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # what is compared once a second does not count
    look("queue-0")
    requests = count_round_trips(monkeypatch, single_broker)
    specs = [queue.as_spec() for queue in Queue.objects.all()]

    get_queue_statuses(single_broker, specs, None)

    assert len(requests) <= 4
