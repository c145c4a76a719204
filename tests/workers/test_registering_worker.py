"""Registering a worker: the request, the retries, and permanent refusals."""

import pytest

from runqy.broker.broker import Broker
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, wait_for_state

pytestmark = pytest.mark.slow


def test_the_registration_request_identifies_the_worker(server: FakeServer, start_worker: StartWorker) -> None:
    start_worker()
    eventually(lambda: server.requests)

    request = server.requests[0]
    assert set(request) == {"worker_id", "queue", "hostname", "os", "version", "accepts", "instance_id"}
    assert (request["queue"], request["accepts"]) == ("mail", ["redis_acl", "releases"])


def test_a_worker_waits_for_a_server_that_is_away(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.status = 503
    start_worker()
    eventually(lambda: len(server.requests) >= 2)

    server.status = 200

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")


def test_a_reason_that_lasts_is_logged_once_and_its_end_with_the_number_of_attempts(
    server: FakeServer, start_worker: StartWorker
) -> None:
    server.status, server.code = 503, "vault_unavailable"
    worker = start_worker()
    eventually(lambda: len(server.requests) >= 4)

    server.status = 200
    end = worker.wait_for("registration_succeeded")

    assert end["failures"] == len(server.requests) - 1 >= 4
    (entry,) = worker.events("not_registered")
    assert entry["reason"] == "The server responded 503: the server responds 503"


def test_a_worker_gives_up_after_bootstrap_retries(server: FakeServer, start_worker: StartWorker) -> None:
    server.status = 503
    worker = start_worker(RUNQY_BOOTSTRAP_RETRIES="2")

    status = worker.process.wait(60)

    assert (status, len(server.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "Check RUNQY_API_KEY"), (403, "cannot register"), (404, "Check RUNQY_QUEUES")]
)
def test_a_refusal_ends_the_worker_with_a_clear_message(
    server: FakeServer, start_worker: StartWorker, status: int, hint: str
) -> None:
    server.status, server.code = status, "queue_not_found"  # only 404 needs the code
    worker = start_worker()

    assert worker.process.wait(60) == 1
    assert hint in worker.events("worker_exits")[0]["reason"]


def test_a_queue_that_is_refused_leaves_the_others_served(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.refused = {"gone"}
    worker = start_worker(RUNQY_QUEUES="gone,mail")
    worker.wait_for("worker_exits")

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")
    assert worker.stop() == 1


def test_a_worker_all_of_whose_queues_are_refused_ends(server: FakeServer, start_worker: StartWorker) -> None:
    server.refused = {"gone", "lost"}
    worker = start_worker(RUNQY_QUEUES="gone,lost")

    assert worker.process.wait(60) == 1
    assert {entry["queue"] for entry in worker.events("worker_exits")} == {"gone", "lost"}


def test_a_worker_whose_id_is_taken_waits_for_it(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.status, server.code = 409, "worker_id_taken"
    worker = start_worker()
    worker.wait_for("not_registered")
    assert worker.events("not_registered")[0]["reason"].startswith("The server responded 409")

    server.status = 200

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")
