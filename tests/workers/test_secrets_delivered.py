"""A real server and real workers: missing vaults, and entries that change."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import update_alerts
from queues.definitions import Deployment, QueueMode
from queues.models import QueueSource
from queues.operations import save_queue
from queues.replacements import continue_replacements
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import Replacement, WorkerState
from tests.queues.samples import spec
from tests.support.waiting import eventually
from tests.support.web import WebProcess
from tests.workers.processes import WorkerProcess, add_task, wait_for_record, wait_for_state, wait_task
from tests.workers.repositories import Repository
from vaults.access_log import list_vault_workers, store_deliveries
from vaults.crypto import generate_master_key
from vaults.models import VaultDelivery
from vaults.operations import create_vault, delete_vault, save_vault, set_entry
from vaults.rotation import rotate_entries

LOAD = (
    "python -c \"import os, runpy, time; [time.sleep(0.01) for _ in iter(lambda: os.path.exists('{gate}'), True)]; "
    "runpy.run_path('main.py', run_name='__main__')\""
)
"""A start command whose process is ready once a file exists."""
REFUSE = (
    "python -c \"import os, runpy; assert os.environ['TOKEN'] != 'second-value', 'no such model'; "
    "runpy.run_path('main.py', run_name='__main__')\""
)
"""A start command whose process does not start with one value of a secret."""
NEXT_KEY = generate_master_key()

Serve = Callable[[str], WorkerProcess]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Return a running server, which has no database and reads the tests' changes only from Redis.

    It has a master key that is not used yet in addition to the tests' own.
    """
    keys = f"{NEXT_KEY},{os.environ['RUNQY_VAULT_MASTER_KEY']}"
    started = WebProcess(tmp_path_factory.mktemp("web"), RUNQY_VAULT_MASTER_KEY=keys)
    yield started
    started.kill()


@pytest.fixture
def save(task_repository: Repository) -> Callable[..., None]:
    """Return a function that saves a queue with the tests' code and some vaults."""

    def save_one(name: str, *vaults: str, mode: QueueMode = QueueMode.LONG_RUNNING, **changes: Any) -> None:
        deployment = Deployment(git_url=task_repository.url, startup_cmd="python main.py", vaults=vaults)
        save_queue(spec=spec(name, mode=mode, deployment=replace(deployment, **changes)), source=QueueSource.API)

    return save_one


@pytest.fixture
def serve(web: WebProcess, deployments: Path, tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a worker for a queue."""
    workers: list[WorkerProcess] = []

    def start(queue: str, **settings: str) -> WorkerProcess:
        settings = {"RUNQY_QUEUES": queue, "RUNQY_DEPLOYMENT_DIR": str(deployments)} | settings
        workers.append(WorkerProcess(web, tmp_path, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def fill(vault: str, **values: str) -> None:
    """Create a vault with entries."""
    create_vault(name=vault)
    for key, value in values.items():
        set_entry(vault=vault, key=key, value=value)


def env_of(broker: Broker, queue: str) -> dict[str, str]:
    """Return the environment of a queue's task."""
    record = wait_for_state(broker, add_task(broker, {"do": "env"}, queue=queue), "completed", "archived")
    env: dict[str, str] = json.loads(record.result or b"")
    return env


def wait_for_env(broker: Broker, queue: str, key: str, value: str) -> None:
    """Do what maintenance does, until a queue's tasks have a value in their environment."""
    eventually(lambda: (continue_replacements(broker), env_of(broker, queue).get(key) == value)[-1])


def wait_for_change(broker: Broker, worker: WorkerProcess) -> None:
    """Do what maintenance does, until a worker starts its process with another environment."""
    eventually(lambda: (continue_replacements(broker), worker.events("environment_changed"))[-1])


def test_a_worker_waits_for_a_vault_that_is_missing_and_starts_once_it_is_there(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    save("mail", "gone")
    worker = serve("mail")

    event = worker.wait_for("not_registered")
    create_vault(name="gone")
    set_entry(vault="gone", key="TOKEN", value="now-it-is-there")

    assert "The vault gone does not exist: create it, or remove it from the queue." in event["reason"]
    assert worker.process.poll() is None
    wait_for_record(single_broker, "ready")
    wait_for_env(single_broker, "mail", "TOKEN", "now-it-is-there")


def test_a_running_worker_continues_when_its_vault_is_deleted_and_reports_why(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets")
    worker = serve("mail")
    wait_for_env(single_broker, "mail", "TOKEN", "first-value")

    delete_vault(name="secrets")
    worker.wait_for("not_registered")

    assert env_of(single_broker, "mail")["TOKEN"] == "first-value"
    eventually(lambda: "vault secrets does not exist" in wait_for_record(single_broker, "ready").reason)
    fill("secrets", TOKEN="other-value")
    wait_for_env(single_broker, "mail", "TOKEN", "other-value")


def test_a_changed_entry_reaches_the_workers_of_its_queues_only(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    for queue in ("mail", "post"):
        fill(f"{queue}-secrets", TOKEN="first-value")
        save(queue, f"{queue}-secrets")
    mail, post = serve("mail"), serve("post")
    before = [env_of(single_broker, queue) for queue in ("mail", "post")]
    pid = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}, queue="post"), "completed").result

    set_entry(vault="mail-secrets", key="TOKEN", value="second-value")
    wait_for_env(single_broker, "mail", "TOKEN", "second-value")

    same_pid = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}, queue="post"), "completed").result
    set_entry(vault="post-secrets", key="TOKEN", value="third-value")
    wait_for_env(single_broker, "post", "TOKEN", "third-value")
    assert [env["TOKEN"] for env in before] == ["first-value", "first-value"]
    assert pid == same_pid
    assert [len(worker.events("registered_again")) for worker in (mail, post)] == [1, 1]


def test_a_task_that_runs_ends_with_the_values_it_began_with(
    single_broker: Broker, save: Callable[..., None], serve: Serve, tmp_path: Path
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets")
    worker = serve("mail")
    task = wait_task(tmp_path) | {"do": "late_env"}
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    set_entry(vault="secrets", key="TOKEN", value="second-value")
    waiting = add_task(single_broker, {"do": "env"})
    wait_for_change(single_broker, worker)

    tokens = []
    for one in (waiting, running):  # the new process starts beside the busy one
        tokens.append(json.loads(wait_for_state(single_broker, one, "completed", "retry").result or b"")["TOKEN"])
        Path(task["until"]).touch()
    assert tokens == ["second-value", "first-value"]


def test_a_one_shot_task_has_the_new_value_and_one_that_runs_keeps_the_old_one(
    single_broker: Broker, save: Callable[..., None], serve: Serve, tmp_path: Path
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets", mode=QueueMode.ONE_SHOT, env_vars={"MODE": "one_shot"})
    worker = serve("mail", RUNQY_CONCURRENCY="2")
    task = wait_task(tmp_path) | {"do": "late_env"}
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    set_entry(vault="secrets", key="TOKEN", value="second-value")
    wait_for_change(single_broker, worker)
    wait_for_env(single_broker, "mail", "TOKEN", "second-value")
    Path(task["until"]).touch()

    kept = json.loads(wait_for_state(single_broker, running, "completed", "retry").result or b"")
    assert kept["TOKEN"] == "first-value"


def test_a_change_that_keeps_all_values_restarts_no_child(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets")
    worker = serve("mail")
    wait_for_env(single_broker, "mail", "TOKEN", "first-value")

    save_vault(name="secrets", description="another")
    set_entry(vault="secrets", key="TOKEN", value="first-value", is_secret=False)
    set_entry(vault="secrets", key="TOKEN", value="first-value", is_secret=False)
    set_entry(vault="secrets", key="TOKEN", value="second-value")
    wait_for_env(single_broker, "mail", "TOKEN", "second-value")

    assert len(worker.events("registered_again")) == 1


def test_a_rotation_of_the_master_key_restarts_no_child(
    single_broker: Broker, save: Callable[..., None], serve: Serve, settings: Any
) -> None:
    fill("secrets", TOKEN="first-value", OTHER="other-value")
    save("mail", "secrets")
    worker = serve("mail")
    wait_for_env(single_broker, "mail", "TOKEN", "first-value")

    settings.RUNQY_VAULT_MASTER_KEY = f"{NEXT_KEY},{settings.RUNQY_VAULT_MASTER_KEY}"
    rotated = sum(step.rotated for step in rotate_entries())
    set_entry(vault="secrets", key="TOKEN", value="second-value")
    wait_for_env(single_broker, "mail", "TOKEN", "second-value")
    store_deliveries()

    assert rotated == 2
    assert len(worker.events("registered_again")) == 1
    assert [record.versions for record in VaultDelivery.objects.order_by("pk")] == [
        {"OTHER": 1, "TOKEN": 1},
        {"OTHER": 1, "TOKEN": 2},
    ]
    assert [worker.is_current for worker in list_vault_workers(single_broker, "secrets")] == [True]


def test_deliveries_are_recorded_and_shown_as_current(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets")
    serve("mail"), serve("mail")
    eventually(lambda: store_deliveries() and VaultDelivery.objects.count() == 2)
    eventually(lambda: len(list_vault_workers(single_broker, "secrets")) == 2)

    set_entry(vault="secrets", key="TOKEN", value="second-value")
    stale = [worker.is_current for worker in list_vault_workers(single_broker, "secrets")]
    eventually(lambda: store_deliveries() and VaultDelivery.objects.count() == 4)

    assert stale == [False, False]
    assert [worker.is_current for worker in list_vault_workers(single_broker, "secrets")] == [True, True]


def replacements(broker: Broker) -> list[Replacement]:
    return sorted(record.replacement for record in list_worker_records(broker))


@pytest.mark.parametrize("replaces_first", [False, True])
def test_workers_take_turns_and_serve_while_the_new_process_loads(
    single_broker: Broker, save: Callable[..., None], serve: Serve, tmp_path: Path, replaces_first: bool
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets", replace_first=replaces_first, startup_cmd=LOAD.format(gate=gate))
    workers = [serve("mail", RUNQY_PROCESSES="1") for _ in range(2)]
    eventually(lambda: replacements(single_broker) == ["", ""] and are_ready(single_broker, 2))
    gate.unlink()

    set_entry(vault="secrets", key="TOKEN", value="second-value")
    eventually(lambda: replacements(single_broker) == ["waiting", "waiting"])
    assert env_of(single_broker, "mail")["TOKEN"] == "first-value"
    for _ in range(3):
        continue_replacements(single_broker)
    eventually(lambda: replacements(single_broker) == ["running", "waiting"])
    for _ in range(3):
        continue_replacements(single_broker)

    assert sum(len(worker.events("environment_changed")) for worker in workers) == 1
    assert are_ready(single_broker, 1 if replaces_first else 2)
    assert env_of(single_broker, "mail")["TOKEN"] == "first-value"
    gate.touch()
    eventually(lambda: (continue_replacements(single_broker), replacements(single_broker) == ["", ""])[-1])
    assert [len(worker.events("environment_changed")) for worker in workers] == [1, 1]
    assert env_of(single_broker, "mail")["TOKEN"] == "second-value"


def test_a_leaked_secret_is_replaced_at_once_also_if_its_new_value_was_set_before(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets")
    workers = [serve("mail") for _ in range(2)]
    eventually(lambda: are_ready(single_broker, 2))
    set_entry(vault="secrets", key="TOKEN", value="second-value")
    eventually(lambda: replacements(single_broker) == ["waiting", "waiting"])

    set_entry(vault="secrets", key="TOKEN", value="second-value", replaces_at_once=True)

    eventually(lambda: [len(worker.events("environment_changed")) for worker in workers] == [1, 1])
    eventually(lambda: are_ready(single_broker, 2))
    assert env_of(single_broker, "mail")["TOKEN"] == "second-value"
    assert replacements(single_broker) == ["", ""]
    set_entry(vault="secrets", key="TOKEN", value="third-value")  # which is not urgent
    eventually(lambda: replacements(single_broker) == ["waiting", "waiting"])


def test_an_alert_names_the_worker_whose_new_process_does_not_start_in_its_turn(
    single_broker: Broker, save: Callable[..., None], serve: Serve
) -> None:
    fill("secrets", TOKEN="first-value")
    save("mail", "secrets", startup_cmd=REFUSE)
    for _ in range(2):
        serve("mail")
    eventually(lambda: are_ready(single_broker, 2))

    set_entry(vault="secrets", key="TOKEN", value="second-value")
    has_turn = ["running", "waiting"]
    eventually(lambda: (continue_replacements(single_broker), replacements(single_broker) == has_turn)[-1])

    found = {record.replacement: record.worker_id for record in list_worker_records(single_broker)}
    message = f"Worker {found[Replacement.RUNNING]} has had its turn to replace them for .+: .*no such model"
    waiting = f"Waiting for a turn: 1 worker, {found[Replacement.WAITING]} for "
    eventually(lambda: re.search(f"{message}.* {waiting}", find_alert(single_broker)))
    assert env_of(single_broker, "mail")["TOKEN"] == "first-value"
    set_entry(vault="secrets", key="TOKEN", value="third-value")
    eventually(lambda: (continue_replacements(single_broker), replacements(single_broker) == ["", ""])[-1])
    assert env_of(single_broker, "mail")["TOKEN"] == "third-value"


def find_alert(broker: Broker) -> str:
    """Apply the rules of alerts. Return the message about processes that are not replaced, if there is one."""
    Alert.objects.all().delete()
    update_alerts(broker)
    return next((each.message for each in Alert.objects.filter(kind=AlertKind.REPLACEMENT_STALLED)), "")


def are_ready(broker: Broker, count: int) -> bool:
    return sum(record.state is WorkerState.READY for record in list_worker_records(broker)) == count
