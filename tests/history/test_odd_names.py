"""Samples that the database refuses."""

from dataclasses import replace

import pytest

from runqy.broker.broker import Broker
from tasks.models import QueueMinute
from tasks.run_history import QueueIdentity
from tasks.run_sampling import RunSampler
from tests.support.tasks import QUEUE, put


def test_a_sample_that_the_database_refuses_hinders_no_other(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    put(broker, "t1", queue="video")
    put(broker, "t2")
    find = QueueIdentity.find

    def refuse(queue: str, *args: object) -> QueueIdentity:
        return replace(find(queue, *args), queue=None if queue == "video" else queue)  # NOT NULL in every database

    monkeypatch.setattr(QueueIdentity, "find", refuse)

    RunSampler().sample_all(broker, ["video", QUEUE], None)

    assert [row.redis_queue for row in QueueMinute.objects.all()] == [QUEUE]
