"""Fill an instance with far more objects than usual, to test that its pages stay fast."""

from datetime import timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import AlertRule
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.definitions import Deployment, QueueSpec, SubQueueSpec
from queues.models import Queue, QueueSource, SubQueue
from queues.queries import documents_used
from runqy.accounts.models import ApiKey
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from runqy.core.api_keys import Role
from schedules.definition_serializers import parse_schedule
from schedules.models import ScheduleSource
from schedules.operations import save_schedule
from tasks.actions import TaskAction
from tasks.bulk_actions import create_bulk_action
from tasks.search import TaskQuery
from tools.demo.data import make_batch
from tools.demo.runs import make_runs
from vaults.operations import create_vault, set_entry
from webhooks.operations import create_endpoint

QUEUES, WORKERS, RECORDS = 2_000, 200, 100_000
_VAULTS, _KEYS, _USERS, _TASKS, _SCHEDULES = 50, 500, 100, 2_000, 5
_BATCH = 2_000


def load_fixture(broker: Broker, queues: int = QUEUES, workers: int = WORKERS, records: int = RECORDS) -> None:
    """Create queues with two sub-queues each, vaults, keys, users, tasks, workers and audit records."""
    for number in range(_VAULTS):
        create_vault(name=f"vault-{number:03}")
        set_entry(vault=f"vault-{number:03}", key="TOKEN", value=f"secret-of-vault-{number:03}")
    _make_queues(queues)
    _make_users_and_keys()
    _make_records(records)
    _make_alerts(min(_KEYS, queues))
    make_runs(broker)
    _make_schedules(broker)
    make_batch(broker)
    create_bulk_action(broker, action=TaskAction.RUN, query=TaskQuery(queue="embeddings"), expected=1)
    broker.run_all(
        [_beat(broker, number) for number in range(workers)]
        + [_enqueued(broker, number, queues) for number in range(_TASKS)]
    )


def _make_queues(count: int) -> None:
    # In one transaction: one by one it would take minutes.
    specs = [_spec(number) for number in range(count)]
    with configuration_change() as change:
        rows = []
        for spec in specs:
            row = Queue(name=spec.name)
            row.apply_spec(spec)
            row.source = QueueSource.FILE
            rows.append(row)
            change.put(DocumentKind.QUEUE, spec.name, spec.encode(), uses=documents_used(spec))
        Queue.objects.bulk_create(rows, batch_size=_BATCH)
        subs = [
            SubQueue(queue=row, name=sub.name, priority=sub.priority, position=position)
            for row, spec in zip(rows, specs, strict=True)
            for position, sub in enumerate(spec.sub_queues)
        ]
        SubQueue.objects.bulk_create(subs, batch_size=_BATCH)


def _spec(number: int) -> QueueSpec:
    deployment = Deployment(
        git_url=f"https://git.example.com/team-{number % 40}/queue-{number}.git",
        startup_cmd="python main.py",
        vaults=(f"vault-{number % _VAULTS:03}",),
    )
    subs = (SubQueueSpec(name="high", priority=9), SubQueueSpec(name="low", priority=1))
    return QueueSpec(name=f"queue-{number:04}", deployment=deployment, sub_queues=subs, priority=9)


def _make_users_and_keys() -> None:
    User.objects.bulk_create([User(username=f"user-{number:03}", is_staff=True) for number in range(_USERS)])
    ApiKey.objects.bulk_create(
        ApiKey(
            name=f"key {number}",
            role=Role.CLIENT,
            digest=f"{number:064x}",
            prefix=f"rq_{number:04}",
            queues=[f"queue-{number:04}"],
            expires_at=timezone.now() + timedelta(days=number + 1),
        )
        for number in range(_KEYS)
    )


def _make_schedules(broker: Broker) -> None:
    for number in range(_SCHEDULES):
        definition = {"name": f"schedule-{number:03}", "queue": f"queue-{number:04}_high", "cron": "30 2 * * *"}
        spec, requested = parse_schedule(definition)
        save_schedule(broker, spec=spec, requested=requested, source=ScheduleSource.ADMIN)


def _make_alerts(count: int) -> None:
    """Open an alert for each of many queues, and set a rule for them."""
    now, kind = timezone.now(), AlertKind.FAILURE_RATE
    names = [f"queue-{number:04}" for number in range(count)]
    store_findings(
        [Finding(kind=kind, subject=name, queue=name, message=f"50 % of {name}.") for name in names], now=now
    )
    rules = [AlertRule(kind=kind, queue=queue, threshold=5) for queue in Queue.objects.all()[:count]]
    AlertRule.objects.bulk_create(rules)
    for number in range(10):
        create_endpoint(url=f"https://hooks.example.com/{number:03}", events=["task.completed"])


def _make_records(count: int) -> None:
    now = timezone.now()
    for start in range(0, count, _BATCH):
        AuditRecord.objects.bulk_create(
            AuditRecord(
                at=now - timedelta(seconds=count - number),
                actor_kind="user",
                actor_name=f"user-{number % _USERS:03}",
                address="10.1.4.20",
                action="queue.updated",
                object_kind="queue",
                object_name=f"queue-{number % QUEUES:04}",
                changes='{"priority":{"new":9,"old":5}}',
            )
            for number in range(start, min(start + _BATCH, count))
        )


def _beat(broker: Broker, number: int) -> object:
    queue = f"queue-{number:04}"
    record = WorkerRecord(
        worker_id=f"worker-{number:03}:1",
        host=f"worker-{number:03}",
        pid=1,
        server_id=f"fixture-{number}",
        queue=queue,
        redis_queues={f"{queue}_high": 9, f"{queue}_low": 1},
        state=WorkerState.READY,
        started_at_s=broker.now_s() - 3600,
    )
    return write_heartbeat(record, now_ns=broker.now_ns())


def _enqueued(broker: Broker, number: int, queues: int) -> object:
    """Return the request that enqueues a task. The first queue gets half of all tasks."""
    queue = 0 if number % 2 else number % queues
    task = NewTask(id=f"task-{number:05}", queue=f"queue-{queue:04}_high", payload=b'{"n":1}')
    return enqueue(task, now_ns=broker.now_ns())
