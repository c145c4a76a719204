"""How queues stand."""

from typing import Any

import pytest
import redis as redis_py

from queues.models import Queue, Source
from queues.operations import save_queue
from queues.standing import QueueStanding, look_at_queues
from queues.switching import pause_queue, pause_whole_queue
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import beat
from runqy.broker.keys import QueueKeys
from runqy.broker.timing import HEARTBEAT_TTL_S
from runqy.broker.worker_records import WorkerRecord
from runqy.connection import get_broker
from runqy.publication.republishing import Comparison, compare_configuration
from tests.publication.support import away
from tests.queues.samples import spec
from tests.queues.test_saving import RICH

pytestmark = pytest.mark.usefixtures("configuration")


def look(name: str = "mail", comparison: Comparison | None = None) -> QueueStanding:
    specs = [queue.as_spec() for queue in Queue.objects.all()]
    return look_at_queues(get_broker(), specs, comparison)[name]


def saved(one: Any) -> None:
    save_queue(spec=one, source=Source.ADMIN)


def serve(worker_id: str, *redis_queues: str, ago_s: int = 0) -> None:
    """Let a worker of some Redis queues have been heard of a while ago."""
    broker = get_broker()
    record = WorkerRecord(
        worker_id=worker_id,
        host="h",
        pid=1,
        server_id=worker_id,
        queue="mail",
        redis_queues=dict.fromkeys(redis_queues, 1),
        started_at_s=1,
    )
    broker.run(beat(record, now_ns=broker.now_ns() - ago_s * 10**9))


def test_a_worker_of_several_sub_queues_counts_once_and_a_stale_one_not_at_all() -> None:
    saved(spec("mail", "high:9", "low:1"))
    saved(spec("video"))
    serve("b", "mail_high", "mail_low")
    serve("a", "mail_low")
    serve("silent", "mail_low", ago_s=HEARTBEAT_TTL_S + 5)

    assert [worker.worker_id for worker in look().workers] == ["a", "b"]
    assert look("video").workers == ()


def test_tasks_of_all_sub_queues_are_counted_by_what_becomes_of_them(redis: redis_py.Redis) -> None:
    saved(spec("mail", "high:9", "low:1"))
    redis.lpush(QueueKeys("mail_high").pending, "a", "b")
    redis.zadd(QueueKeys("mail_low").retry, {"c": 1})
    redis.lpush(QueueKeys("mail_low").active, "d")
    redis.zadd(QueueKeys("mail_low").archived, {"e": 1, "f": 2})

    standing = look()

    assert (standing.waiting, standing.running, standing.failed, standing.completed) == (3, 1, 2, 0)


def test_a_pause_of_a_part_is_told_apart_from_one_of_all() -> None:
    saved(spec("mail", "high:9", "low:1"))
    assert not look().is_paused

    pause_queue(get_broker(), name="mail_low")
    assert (look().is_paused, look().is_wholly_paused) == (True, False)

    pause_whole_queue(get_broker(), name="mail")
    assert look().is_wholly_paused


def test_what_redis_lacks_of_a_queue_or_its_vaults_is_not_published() -> None:
    saved(spec("mail"))
    saved(RICH)

    def published(comparison: Comparison | None) -> list[bool | None]:
        return [look(name, comparison).is_published for name in ("inference", "mail")]

    assert published(compare_configuration()) == [True, True]
    assert published(Comparison(outdated=["queue:mail"])) == [True, False]
    assert published(Comparison(refused=["vault:c"])) == [False, True]
    assert published(None) == [None, None]


def test_vaults_that_are_missing_are_named() -> None:
    saved(RICH)

    assert len(look("inference").vault_problems) == 3


def test_nothing_is_known_of_tasks_while_redis_is_away(settings) -> None:
    saved(spec("mail"))
    look()
    settings.REDIS_TARGET = away()

    standing = look()

    assert standing.counts is None
    assert not standing.is_wholly_paused


def test_many_queues_take_as_many_round_trips_as_one(monkeypatch: pytest.MonkeyPatch, single_broker: Broker) -> None:
    for number in range(20):
        saved(spec(f"queue-{number}", "high:2", "low:1"))
    look("queue-0")
    trips: list[int] = []
    execute = type(single_broker.link).execute

    def counted(link: Any, commands: Any) -> Any:
        trips.append(len(commands))
        return execute(link, commands)

    monkeypatch.setattr(type(single_broker.link), "execute", counted)
    specs = [queue.as_spec() for queue in Queue.objects.all()]

    look_at_queues(single_broker, specs, None)

    assert len(trips) <= 4
