"""The admin pages of workers."""

import re
from dataclasses import replace

import pytest
from django.test import Client

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState, read_requests
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.redis_client import redis_of
from tests.support.releases import insert_release
from tests.support.staff import staff_client
from tests.support.workers import RECORD, RUNNING
from vaults.access_log import record_delivery, store_deliveries
from vaults.operations import create_vault, set_entry
from vaults.worker_secrets import get_worker_secrets

LIST = "/admin/workers/worker/"


@pytest.fixture
def viewer(configuration: None) -> Client:
    """Return the browser of a user who can only view."""
    return staff_client("viewer")


def appear(broker: Broker, record: WorkerRecord, *running: RunningTask, ago_s: int = 0) -> None:
    """Let a worker send a heartbeat."""
    broker.run(write_heartbeat(record, running, now_ns=broker.now_ns() - ago_s * 10**9))


def text(response) -> str:
    """Return the source of a page that is there."""
    assert response.status_code == 200, response.content
    return response.content.decode()


def test_workers_are_listed_with_their_busy_slots(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, RUNNING)

    content = text(viewer.get(LIST))

    assert 'href="/admin/workers/worker/worker_2F1/change/">worker/1</a>' in content
    assert "<b>1</b> worker: <b>1</b> ready; <b>1</b> of 4 slots busy" in content
    assert ">1 of 4</td>" in content
    assert ">8b1c0de4f00d</span></div></td>" in content
    assert 'href="/admin/tasks/task/?queue=inference_high&amp;state=active"' in content
    assert "disconnected" not in content


def test_the_commit_of_a_worker_has_subject_author_and_age_if_a_release_knows_them(
    viewer: Client, single_broker: Broker
) -> None:
    appear(single_broker, RECORD)
    appear(single_broker, replace(RECORD, worker_id="w2", server_id="s2", commit="c" * 40))
    insert_release(save_queue(spec=spec(RECORD.queue), source=QueueSource.API), RECORD.commit)

    about = r'title="8b1c0de4f00d[0-9a-f]{28}">8b1c0de4f00d\w*</span> Read &lt;larger&gt; images'
    found = re.search(f'{about} <span class="page-note">by Ada</span>.*>2 h ago</time>', text(viewer.get(LIST)))
    assert found
    assert ">cccccccccccc</span></div></td>" in text(viewer.get(LIST))
    assert re.search(about, text(viewer.get(f"{LIST}worker_2F1/change/")))


def test_a_run_beyond_its_deadline_is_marked_as_overdue(viewer: Client, single_broker: Broker) -> None:
    in_time = replace(RUNNING, task_id="t/2", deadline_s=single_broker.now_s() + 90)
    appear(single_broker, RECORD, RUNNING, in_time)

    content = text(viewer.get(f"{LIST}worker_2F1/change/"))

    assert re.search(r'class="page-overdue">\d+ d( \d+ h)? overdue</time>', content)
    assert re.search(r'UTC">in 1 min( \d+ s)?</time>', content)
    assert content.count("page-overdue") == 1


def test_a_worker_whose_beats_are_overdue_is_marked(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, ago_s=30)

    assert '<b>0</b> workers: <b>0</b> ready, <b class="page-error">1 disconnected</b>' in text(viewer.get(LIST))
    content = text(viewer.get(f"{LIST}worker_2F1/change/"))
    assert re.search(r"Its last heartbeat was [345]\d s ago", content)
    assert "Why it is disconnected" in content
    assert "no heartbeat has reached Redis since" in content


def test_a_worker_that_cannot_start_shows_the_reason(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, replace(RECORD, state=WorkerState.START_FAILED, reason="git: no <branch>"))

    assert '<b>0</b> ready, <b>1</b> not ready (<b class="page-error">1 failed to start</b>)' in text(viewer.get(LIST))
    content = text(viewer.get(f"{LIST}worker_2F1/change/"))
    assert "Why it failed to start" in content
    assert "git: no &lt;branch&gt;" in content


def test_a_worker_whose_child_is_loading_says_for_how_long(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, replace(RECORD, state=WorkerState.STARTING, reason="loading for 2 min"))

    assert "loading for 2 min" in text(viewer.get(LIST))
    assert "loading for 2 min" in text(viewer.get(f"{LIST}worker_2F1/change/"))


def test_a_ready_worker_with_a_problem_shows_the_reason(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, replace(RECORD, reason="could not register again: no vault"))

    content = text(viewer.get(f"{LIST}worker_2F1/change/"))

    assert "Problem" in content
    assert "could not register again: no vault" in content


def test_a_workers_page_shows_which_secrets_it_has_and_whether_they_are_current(
    viewer: Client, single_broker: Broker
) -> None:
    for vault in ("general", "special"):
        create_vault(name=vault)
        git_hosts = ["github.com"] if vault == "special" else None
        set_entry(vault=vault, key="TOKEN", value="sk-a-secret-of-many-characters", git_hosts=git_hosts)
    deployment = replace(spec().deployment, vaults=("general",), git_token="vault://special/TOKEN")
    save_queue(spec=spec("inference", "high:10", "low:3", deployment=deployment), source=QueueSource.API)
    grants = get_worker_secrets(["general"], git_token="vault://special/TOKEN", git_url=deployment.git_url).grants
    record_delivery(worker_id=RECORD.worker_id, queue="inference", grants=grants)
    store_deliveries()
    set_entry(vault="special", key="TOKEN", value="another")
    appear(single_broker, RECORD)

    content = text(viewer.get(f"{LIST}worker_2F1/change/"))

    rows = re.findall(r"<td><a[^>]*>(general|special)</a></td>(.*?)</tr>", content, re.DOTALL)
    assert [(vault, "version 1" in row, "outdated" in row) for vault, row in rows] == [
        ("general", True, False),
        ("special", True, True),
    ]
    assert "sk-a-secret" not in content
    assert "outdated secrets" in text(viewer.get(LIST))


def test_workers_in_trouble_are_listed_first(viewer: Client, single_broker: Broker) -> None:
    for name, changes in (("a", {}), ("b", {"reason": "boom"}), ("c", {"state": WorkerState.START_FAILED})):
        appear(single_broker, replace(RECORD, worker_id=name, server_id=name, **changes))

    assert re.findall(r'/change/">([^<]*)</a>', text(viewer.get(LIST))) == ["b", "c", "a"]
    assert "outdated secrets" not in text(viewer.get(LIST))


def test_a_process_counts_once_and_the_list_can_be_limited_to_a_queue(viewer: Client, single_broker: Broker) -> None:
    for name in ("mail", "inference"):
        save_queue(spec=spec(name), source=QueueSource.API)
    queue_of = {"a": "mail", "b": "inference", "c": "mail-archive"}
    for name, queue in queue_of.items():
        appear(single_broker, replace(RECORD, worker_id=name, server_id=name, queue=queue, redis_queues={queue: 1}))

    assert "<b>1</b> worker: <b>1</b> ready;" in text(viewer.get(LIST))
    assert re.findall(r'/change/">([^<]*)</a>', text(viewer.get(f"{LIST}?queue=mail"))) == ["a"]


def test_a_workers_page_leads_to_the_tasks_that_it_runs(viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD, RUNNING)

    content = text(viewer.get(f"{LIST}worker_2F1/change/"))

    assert 'href="/admin/tasks/task/t_2F1/change/?queue=inference_high">t/1</a>' in content
    assert "1 of 4 slots busy" in content
    assert RECORD.commit in content
    assert "in-the-payload" not in content


def test_a_go_worker_is_shown_with_its_reported_values(viewer: Client, single_broker: Broker) -> None:
    now_s = single_broker.now_s()
    redis_of(single_broker).zadd(keys.WORKERS, {"vm:17": now_s + 60})
    fields = {"worker_id": "vm:17", "queues": "map[mail:5]", "concurrency": 8, "last_beat": now_s, "gpu": "A<100>"}
    redis_of(single_broker).hset(keys.go_worker("vm:17"), mapping=fields)

    assert "Go worker" in text(viewer.get(LIST))
    content = text(viewer.get(f"{LIST}vm_3A17/change/"))
    assert "does not report its running tasks" in content
    assert "<dt>gpu</dt><dd>A&lt;100&gt;</dd>" in content


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("drain", "exits when its tasks have ended"),
        ("restart", "restarts its children"),
        ("stop", "stops within seconds"),
    ],
)
def test_an_operator_drains_restarts_and_stops_a_worker(
    configuration: None, single_broker: Broker, action: str, says: str
) -> None:
    appear(single_broker, RECORD)
    operator, page = staff_client("operator"), f"{LIST}worker_2F1/change/"
    assert f'value="{action}"' in text(operator.get(page))

    url = f"{LIST}worker_2F1/request/"
    if action == "stop":
        question = operator.post(url, {"action": action})
        assert "Stop worker worker/1?" in text(question)
        assert f'action="{url}"' in text(question)
        assert not single_broker.run(read_requests(RECORD.worker_id))
    response = operator.post(url, {"action": action, "confirmed": "yes"}, follow=True)

    assert response.redirect_chain == [(page, 302)]
    assert says in text(response)
    assert {*single_broker.run(read_requests(RECORD.worker_id))} == {action}
    assert audit_records().latest("number").action == f"worker.{action}_requested"


def test_the_page_says_who_cannot_be_asked(configuration: None, viewer: Client, single_broker: Broker) -> None:
    appear(single_broker, RECORD)
    now_s = single_broker.now_s()
    redis_of(single_broker).zadd(keys.WORKERS, {"vm:17": now_s + 60})
    fields = {"worker_id": "vm:17", "queues": "map[mail:5]", "concurrency": 8, "last_beat": now_s}
    redis_of(single_broker).hset(keys.go_worker("vm:17"), mapping=fields)
    operator = staff_client("operator")

    assert "Your account may not drain" in text(viewer.get(f"{LIST}worker_2F1/change/"))
    assert "runqy-worker reads no requests. Send SIGTERM" in text(operator.get(f"{LIST}vm_3A17/change/"))
    response = operator.post(f"{LIST}vm_3A17/request/", {"action": "drain"}, follow=True)
    assert text(response).count("runqy-worker reads no requests.") == 2  # the message, and what is always there
    assert operator.post(f"{LIST}vm_3A17/request/", {"action": "boom"}).status_code == 404


def test_a_worker_that_is_gone_gets_an_error_page(viewer: Client) -> None:
    response = viewer.get(f"{LIST}nobody/change/")

    assert response.status_code == 404
    assert "No worker &#x27;nobody&#x27; is registered, and none of this id was lost" in response.content.decode()
    assert "All workers" in response.content.decode()


def test_without_workers_the_page_explains_how_to_start_one(viewer: Client) -> None:
    assert "RUNQY_SERVER_URL=http://testserver" in text(viewer.get(LIST))


def test_workers_are_found_by_their_searchable_fields(viewer: Client, single_broker: Broker) -> None:
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
        appear(single_broker, replace(RECORD, worker_id=f"w{number:03}", server_id=f"s{number}", pid=number))

    with django_assert_max_num_queries(12):
        first = text(viewer.get(LIST))

    assert "<b>220</b> workers: <b>220</b> ready; <b>0</b> of 880 slots busy" in first
    assert ("w099" in first, "w100" in first) == (True, False)
    assert "w219" in text(viewer.get(f"{LIST}?page=3"))


def test_users_without_permission_see_no_workers(configuration: None) -> None:
    client = staff_client(None)

    assert client.get(LIST).status_code == 403
    assert client.get(f"{LIST}w1/change/").status_code == 403


@pytest.mark.parametrize("path", [LIST, f"{LIST}w1/change/", "/admin/tasks/task/", "/admin/tasks/task/?id=t1"])
def test_without_redis_an_error_page_is_shown(viewer: Client, settings, path: str) -> None:
    viewer.get("/admin/")
    settings.REDIS_TARGET = away()

    response = viewer.get(path)

    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "Redis cannot be reached" in response.content.decode()
    assert re.search(rf'href="{re.escape(path)}"[^>]*>Try again</a>', response.content.decode())
    assert re.search(r'href="/admin/"[^>]*>Overview</a>', response.content.decode())
