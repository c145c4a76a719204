"""Names and samples that the database refuses."""

from dataclasses import replace

import pytest

from runqy.broker.broker import Broker
from tasks.history.rollups import RunSampler
from tasks.history.rows import QueueIdentity
from tasks.models import QueueMinute, TaskRun
from tests.support.runs import insert_runs, make_run
from tests.support.staff import staff_client
from tests.support.tasks import QUEUE, put
from tests.tasks.task_helpers import put_in


def test_a_sample_that_the_database_refuses_hinders_no_other(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    put(broker, "t1", queue="video")
    put(broker, "t2")
    find = QueueIdentity.find

    def refuse(queue: str, *args: object) -> QueueIdentity:
        return replace(find(queue, *args), queue=None if queue == "video" else queue)  # NOT NULL in every database

    monkeypatch.setattr(QueueIdentity, "find", refuse)

    RunSampler().sample_all(broker, ["video", QUEUE], None)

    assert [row.redis_queue for row in QueueMinute.objects.all()] == [QUEUE]


def test_an_id_with_nul_is_looked_up_as_it_is_stored(broker: Broker):
    row, _ = insert_runs(make_run(task_id="a"), make_run(task_id="b"))
    TaskRun.objects.filter(pk=row.pk).update(task_id="a\0")

    assert list(TaskRun.objects.filter(task_id__in=["a\0", "x\0"])) == [row]
    assert TaskRun.objects.get(task_id="a\0").task_id == "a\ufffd"


def test_a_task_whose_id_has_a_nul_is_found_and_has_a_page(configuration: None, single_broker: Broker):
    put_in(single_broker, "completed", "\0", payload=b'{"order":"A-1"}', retention_s=60)
    client = staff_client("admin")

    assert client.get("/admin/tasks/task/search/", {"q": "A-1"}).status_code == 200
    assert client.get("/admin/tasks/task/%00/change/").status_code == 200
