"""Data of edge cases that `fill` does not create: tasks in trouble, bulk actions, long names, many queues."""

from datetime import timedelta

import msgspec
from django.utils import timezone

from alerts.models import Alert
from queues.definition_serializers import parse_queue
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_log import EndedRun
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import OutputChunk, write_output
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from tasks.history.record import store_runs
from tasks.history.rows import QueueIdentity
from tasks.models import BulkAction, TaskCopy
from tools.demo.data import take_tasks
from tools.demo.runs import make_commit
from vaults.operations import create_vault, set_entry
from webhooks.models import ALERTS, Delivery

_GROUPS = 300
LONG_NAME = "a-rather-long-name-that-was-chosen-without-thinking-of-phones-in-a-hurry"
_WORKER_ID = "office-mini:35"


def add_long_names() -> str:
    """Add a queue and a vault with long names; return the name of the queue."""
    define_queue(LONG_NAME)
    create_vault(name=LONG_NAME[:64], description="Its entries are as long as those of some libraries.")
    set_entry(vault=LONG_NAME[:64], key="B", value="https://storage.example.com/" + "x" * 90, is_secret=False)
    set_entry(vault=LONG_NAME[:64], key="A_LONG_NAME_OF_A_VARIABLE_THAT_A_LIBRARY_PRESCRIBES_TO_ITS_USERS", value="1")
    return LONG_NAME


def add_lost_worker(broker: Broker) -> str:
    """Let a worker have died an hour ago with three tasks; return its id."""
    record = WorkerRecord(
        worker_id="gpu-rig-3:2077",
        host="gpu-rig-3",
        pid=2077,
        server_id="demo-2077",
        queue="invoices",
        redis_queues={"invoices": 7},
        concurrency=4,
        state=WorkerState.READY,
        reason="could not register again: the server cannot be reached",
        commit=make_commit("invoices", 2),
        started_at_s=broker.now_s() - 90_000,
    )
    held = [
        RunningTask(task_id=task_id, redis_queue="invoices", task_type="", payload=b"", started_ns=1, deadline_s=1)
        for task_id in ("invoices-0001", "invoices-0005", "invoices-gone")
    ]
    broker.run(write_heartbeat(record, held, now_ns=broker.now_ns() - 3600 * 10**9))
    return record.worker_id


def add_tasks_in_trouble(broker: Broker) -> tuple[LeasedTask, LeasedTask]:
    """Return a task that runs and prints, and one that failed several times."""
    (running,) = take_tasks(broker, "transcription_interactive", 1)
    lines = "".join(f"{second // 60:02}:{second % 60:02} segment {second}: [speaker 1] …\n" for second in range(900))
    progress = b'{"current":900,"total":2400,"message":"Transcribing calls/1004.ogg"}'
    broker.run(write_output([OutputChunk(lease=running.lease, text=lines.encode(), progress=progress)]))
    error = (
        "Traceback (most recent call last):\n"
        '  File "/srv/invoices/render.py", line 112, in render\n    vat_id = customer["vat_id"]\n'
        "KeyError: 'vat_id'"
    )
    task = NewTask(
        id="invoices-ORD-2026-9001",
        queue="invoices",
        payload=b'{"order_id":"ORD-2026-9001","lines":[1,2]}',
        max_retry=4,
    )
    broker.run(enqueue(task, now_ns=broker.now_ns()))
    identity, runs = QueueIdentity(redis_queue="invoices", queue="invoices"), []
    leased = None
    while leased is None:
        (one,) = take_tasks(broker, "invoices", 1, worker_id=_WORKER_ID)
        if one.lease.task_id == task.id:
            leased = one
        else:
            broker.run(complete(one.lease, one.message, b'{"pages":2}', now_ns=broker.now_ns()))
    for attempt in range(1, 6):
        now_ns = broker.now_ns()
        text = f"attempt {attempt}\nrendering order ORD-2026-9001\nno vat_id\n"
        broker.run(write_output([OutputChunk(lease=leased.lease, text=text.encode())]))
        is_last = attempt == 5
        runs.append(
            EndedRun(
                task_id=task.id,
                run_id=f"demo-{attempt}",
                outcome=RunOutcome.FAILED if is_last else RunOutcome.RETRIED,
                is_final=is_last,
                attempt=attempt,
                enqueued_ns=now_ns - 3600 * 10**9 if attempt == 1 else None,
                started_ns=now_ns - (6 - attempt) * 600 * 10**9 - 1_250_000_000,
                ended_ns=now_ns - (6 - attempt) * 600 * 10**9,
                worker_id="office-mini:35",
                commit=make_commit("invoices", 2),
                payload=task.payload,
                error=error,
            )
        )
        if is_last:
            broker.run(archive(leased.lease, leased.message, error=error, now_ns=now_ns))
        else:
            failure = Failure(error=error, retry_at_s=broker.now_s() - 1)
            broker.run(retry(leased.lease, leased.message, failure, now_ns=now_ns))
            broker.run(forward("invoices", TaskState.RETRY, now_ns=broker.now_ns()))
            (leased,) = take_tasks(broker, "invoices", 1, worker_id=_WORKER_ID)
    gone = msgspec.structs.replace(runs[0], task_id="invoices-of-a-former-worker", worker_id="gpu-rig-0:77")
    store_runs(identity, [*runs, gone])
    return running, leased


def add_bulk_actions() -> dict[str, BulkAction]:
    """Create a bulk action in each state; return them by state."""
    now = timezone.now()
    states = {
        "waiting": {},
        "running": {"started_at": now - timedelta(seconds=40), "done": 700, "skipped": 3},
        "finished": {"started_at": now - timedelta(hours=1), "ended_at": now, "done": 1200, "skipped": 38},
        "canceled": {"started_at": now - timedelta(hours=2), "ended_at": now, "done": 400},
        "failed": {
            "started_at": now - timedelta(hours=3),
            "ended_at": now,
            "done": 17,
            "failed": 2,
            "error": "The queue invoices no longer exists.",
        },
    }
    made = {}
    for state, fields in states.items():
        made[state] = bulk = BulkAction.objects.create(
            action="run",
            query='{"queue":"invoices","outcomes":["failed"],"text":"vat_id"}',
            state=state,
            expected=1238,
            requested_s=int(now.timestamp()),
            actor={"kind": "user", "name": "linus", "id": "1", "address": "10.1.4.20"},
            **fields,
        )
        if "started_at" in fields:
            BulkAction.objects.filter(pk=bulk.pk).update(created_at=fields["started_at"] - timedelta(seconds=3))
        if state in ("finished", "failed"):
            skipped = {"queue": "invoices", "id": "invoices-0002", "outcome": "skipped", "reason": "it is active again"}
            BulkAction.objects.filter(pk=bulk.pk).update(problems=[skipped])
            TaskCopy.objects.create(
                bulk_action=bulk,
                original_queue="invoices",
                original_id="invoices-run-0004",
                copy_queue="invoices",
                copy_id="0198f3a2-copy",
            )
    return made


def add_alert_deliveries() -> None:
    """Add a delivery that succeeded, one that is repeated, and one that was given up."""
    now = timezone.now()
    states = ({"delivered_at": now}, {"error": "HTTP 503"}, {"error": "connection refused", "abandoned_at": now})
    for number, alert in enumerate(Alert.objects.filter(opened_at__isnull=False).order_by("pk")):
        message = f"alert_{alert.pk}_opened"
        delivery, _ = Delivery.objects.update_or_create(
            target=ALERTS,
            message_id=message,
            defaults={"event": "alert.opened", "created_at": now, "due_at": now, "attempts": 3, **states[number % 3]},
        )
        alert.deliveries.add(delivery)


def add_many(broker: Broker) -> None:
    """Add 60 queues, a Redis queue without a definition, and errors of many kinds."""
    broker.run(enqueue(NewTask(id="n1", queue="newsletter", payload=b"{}"), now_ns=broker.now_ns()))
    for number in range(60):
        define_queue(f"customer-{number:02}")
        for task in range(number % 5):
            new = NewTask(id=f"c{number}-{task}", queue=f"customer-{number:02}", payload=b'{"n":1}')
            broker.run(enqueue(new, now_ns=broker.now_ns()))
    for number in range(_GROUPS):
        word = "".join(chr(97 + (number // 26**place) % 26) for place in range(3))
        runs = [
            EndedRun(
                task_id=f"many-{number}-{each}",
                run_id="1",
                outcome=RunOutcome.FAILED,
                is_final=True,
                attempt=1,
                started_ns=broker.now_ns() - 3600 * 10**9 * (each + 1),
                ended_ns=broker.now_ns() - 3590 * 10**9 * (each + 1),
                worker_id="office-mini:35",
                payload=b'{"n":1}',
                error=f"ImportError: cannot import name {word} from the module of a customer",
            )
            for each in range(number % 4 + 1)
        ]
        store_runs(QueueIdentity(redis_queue=f"customer-{number % 60:02}", queue=f"customer-{number % 60:02}"), runs)


def define_queue(name: str) -> None:
    deployment = {"git_url": f"https://git.example.com/{name}.git", "startup_cmd": "python main.py"}
    save_queue(spec=parse_queue(name, {"priority": 5, "deployment": deployment}), source=QueueSource.ADMIN)
