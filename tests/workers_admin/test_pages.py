"""Workers in the admin: who is there, and what each of them runs."""

import re
from dataclasses import replace

import pytest
from django.test import Client

from queues.models import Source
from queues.operations import save_queue
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import beat
from runqy.broker.worker_records import RunningTask, WorkerRecord, WorkerState
from tests.publication.support import away
from tests.queues.samples import spec
from tests.support.staff import staff_client
from tests.support.workers import RECORD, RUNNING
from vaults.deliveries import note_delivery, store_deliveries
from vaults.opening import open_vaults
from vaults.operations import create_vault, set_entry

LIST = "/admin/workers/worker/"


@pytest.fixture
def viewer(configuration: None) -> Client:
    """Return the browser of somebody who only reads."""
    return staff_client("viewer")


def appear(broker: Broker, record: WorkerRecord, *running: RunningTask, ago_s: int = 0) -> None:
    """Let a worker send a sign of life."""
    broker.run(beat(record, running, now_ns=broker.now_ns() - ago_s * 10**9))


def text(answer) -> str:
    """Return the source of a page that is there."""
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def test_workers_are_listed_with_what_they_use(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, RUNNING)

    shown = text(viewer.get(LIST))

    assert 'href="/admin/workers/worker/worker_2F1/change/">worker/1</a>' in shown
    assert "<b>1</b> worker, <b>1</b> of 4 places in use" in shown
    assert ">1 of 4</td>" in shown
    assert ">8b1c0de4f0</span></td>" in shown
    assert 'href="/admin/tasks/task/?queue=inference_high&amp;state=active"' in shown
    assert "stale" not in shown


def test_a_worker_whose_beats_are_overdue_is_marked(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, ago_s=30)

    assert "1 stale" in text(viewer.get(LIST))
    assert re.search(r"Its last sign of life was 3\d s ago", text(viewer.get(f"{LIST}worker_2F1/change/")))


def test_a_worker_that_cannot_start_says_why(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, replace(RECORD, state=WorkerState.START_FAILED, reason="git: no <branch>"))

    assert "1 failed to start" in text(viewer.get(LIST))
    shown = text(viewer.get(f"{LIST}worker_2F1/change/"))
    assert "Why it did not start" in shown
    assert "git: no &lt;branch&gt;" in shown


def test_a_worker_that_goes_on_without_what_it_wanted_says_what_that_was(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, replace(RECORD, reason="could not register again: no vault"))

    shown = text(viewer.get(f"{LIST}worker_2F1/change/"))

    assert "What it could not do" in shown
    assert "could not register again: no vault" in shown


def test_a_workers_page_shows_which_secrets_it_has_and_whether_they_are_current(
    viewer: Client, single_broker: Broker
) -> None:
    for vault in ("general", "special"):
        create_vault(name=vault)
        git_hosts = ["github.com"] if vault == "special" else None
        set_entry(vault=vault, key="TOKEN", value="sk-a-secret-of-many-characters", git_hosts=git_hosts)
    deployment = replace(spec().deployment, vaults=("general",), git_token="vault://special/TOKEN")
    save_queue(spec=spec("inference", "high:10", "low:3", deployment=deployment), source=Source.API)
    shares = open_vaults(["general"], git_token="vault://special/TOKEN", git_url=deployment.git_url).shares
    note_delivery(worker_id=RECORD.worker_id, queue="inference", shares=shares)
    store_deliveries()
    set_entry(vault="special", key="TOKEN", value="another")
    appear(single_broker, RECORD)

    shown = text(viewer.get(f"{LIST}worker_2F1/change/"))

    rows = re.findall(r"<td><a[^>]*>(general|special)</a></td>(.*?)</tr>", shown, re.DOTALL)
    assert [(vault, "version 1" in row, "changed since" in row) for vault, row in rows] == [
        ("general", True, False),
        ("special", True, True),
    ]
    assert "sk-a-secret" not in shown
    assert "old secrets" in text(viewer.get(LIST))


def test_workers_in_trouble_are_listed_first(viewer: Client, single_broker: Broker) -> None:
    for name, changes in (("a", {}), ("b", {"reason": "boom"}), ("c", {"state": WorkerState.START_FAILED})):
        appear(single_broker, replace(RECORD, worker_id=name, server_id=name, **changes))

    assert re.findall(r'/change/">([^<]*)</a>', text(viewer.get(LIST))) == ["b", "c", "a"]
    assert "old secrets" not in text(viewer.get(LIST))


def test_a_workers_page_leads_to_the_tasks_that_it_runs(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, RUNNING)

    shown = text(viewer.get(f"{LIST}worker_2F1/change/"))

    assert 'href="/admin/tasks/task/t_2F1/change/?queue=inference_high">t/1</a>' in shown
    assert "Runs 1 of 4 at once" in shown
    assert RECORD.commit in shown
    assert "in-the-payload" not in shown


def test_a_worker_of_go_is_shown_with_what_it_tells(viewer: Client, single_broker: Broker) -> None:
    now_s = single_broker.now_s()
    single_broker.client.zadd(keys.WORKERS, {"vm:17": now_s + 60})
    told = {"worker_id": "vm:17", "queues": "map[mail:5]", "concurrency": 8, "last_beat": now_s, "gpu": "A<100>"}
    single_broker.client.hset(keys.go_worker("vm:17"), mapping=told)

    assert "Go worker" in text(viewer.get(LIST))
    shown = text(viewer.get(f"{LIST}vm_3A17/change/"))
    assert "does not tell what it runs" in shown
    assert "<dt>gpu</dt><dd>A&lt;100&gt;</dd>" in shown


def test_a_worker_that_is_gone_has_a_page_of_ours(viewer: Client) -> None:
    answer = viewer.get(f"{LIST}nobody/change/")

    assert answer.status_code == 404
    assert "No worker &#x27;nobody&#x27; was heard of in the last minute." in answer.content.decode()
    assert "All workers" in answer.content.decode()


def test_without_workers_the_page_says_how_to_start_one(viewer: Client) -> None:
    assert "RUNQY_SERVER_URL=http://testserver" in text(viewer.get(LIST))


def test_workers_are_found_by_what_they_are_known_by(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD)
    appear(single_broker, replace(RECORD, worker_id="w2", host="cpu-9", server_id="s2", redis_queues={"mail": 1}))

    found = {
        search: re.findall(r'/change/">([^<]*)</a>', text(viewer.get(f"{LIST}?q={search}")))
        for search in ("CPU", "inference_h", "worker/", "8b1c", "nobody")
    }

    assert found == {
        "CPU": ["w2"],
        "inference_h": ["worker/1"],
        "worker/": ["worker/1"],
        "8b1c": ["w2", "worker/1"],
        "nobody": [],
    }


def test_hundreds_of_workers_are_listed_page_by_page(
    viewer: Client, single_broker: Broker, django_assert_max_num_queries
) -> None:
    for number in range(220):
        appear(single_broker, replace(RECORD, worker_id=f"w{number:03}", server_id=f"s{number}"))

    with django_assert_max_num_queries(12):
        first = text(viewer.get(LIST))

    assert "<b>220</b> workers, <b>0</b> of 880 places in use" in first
    assert ("w099" in first, "w100" in first) == (True, False)
    assert "w219" in text(viewer.get(f"{LIST}?page=3"))


def test_who_may_not_see_workers_sees_none(configuration: None, client: Client, django_user_model) -> None:
    client.force_login(django_user_model.objects.create_user("new", is_staff=True))

    assert client.get(LIST).status_code == 403
    assert client.get(f"{LIST}w1/change/").status_code == 403


@pytest.mark.parametrize("path", [LIST, f"{LIST}w1/change/", "/admin/tasks/task/", "/admin/tasks/task/?id=t1"])
def test_without_redis_there_is_a_page_that_says_so(viewer: Client, settings, path: str) -> None:
    viewer.get("/admin/")
    settings.REDIS_TARGET = away()

    answer = viewer.get(path)

    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "Redis cannot be reached" in answer.content.decode()
    assert re.search(rf'href="{re.escape(path)}"[^>]*>Try again</a>', answer.content.decode())
