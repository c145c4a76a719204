"""Fills an instance far beyond what one looks like in life, to see that its pages bear it."""

from datetime import timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from queues.definitions import Deployment, QueueSpec, SubQueue
from queues.models import Queue, Source
from queues.models import SubQueue as SubQueueRow
from queues.queries import documents_used
from runqy.accounts.identity import Role
from runqy.accounts.models import ApiKey
from runqy.audit.chain import CHAIN_BEGIN
from runqy.audit.models import AuditHead, AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.enqueue import NewTask, enqueue
from runqy.broker.heartbeats import beat
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.publication.documents import Kind
from runqy.publication.operations import configuration_change
from vaults.operations import create_vault, set_entry

QUEUES, WORKERS, RECORDS = 2_000, 200, 100_000
_VAULTS, _KEYS, _USERS, _TASKS = 50, 500, 100, 2_000
_BATCH = 2_000


def crowd(broker: Broker, queues: int = QUEUES, workers: int = WORKERS, records: int = RECORDS) -> None:
    """Make queues with two sub-queues each, vaults, keys, users, tasks, workers and records of the audit."""
    for number in range(_VAULTS):
        create_vault(name=f"vault-{number:03}")
        set_entry(vault=f"vault-{number:03}", key="TOKEN", value=f"secret-of-vault-{number:03}")
    _make_queues(queues)
    _make_people()
    _make_records(records)
    broker.run_all(
        [_beat(broker, number) for number in range(workers)]
        + [_enqueued(broker, number, queues) for number in range(_TASKS)]
    )


def _make_queues(count: int) -> None:
    """Save queues in one transaction; one by one it would take minutes."""
    specs = [_spec(number) for number in range(count)]
    with configuration_change() as change:
        rows = []
        for spec in specs:
            row = Queue(name=spec.name)
            row.take_from(spec)
            row.source = Source.FILE
            rows.append(row)
            change.put(Kind.QUEUE, spec.name, spec.encode(), uses=documents_used(spec))
        Queue.objects.bulk_create(rows, batch_size=_BATCH)
        subs = [
            SubQueueRow(queue=row, name=sub.name, priority=sub.priority, position=position)
            for row, spec in zip(rows, specs, strict=True)
            for position, sub in enumerate(spec.sub_queues)
        ]
        SubQueueRow.objects.bulk_create(subs, batch_size=_BATCH)


def _spec(number: int) -> QueueSpec:
    """Return one of the queues."""
    deployment = Deployment(
        git_url=f"https://git.example.com/team-{number % 40}/queue-{number}.git",
        startup_cmd="python main.py",
        vaults=(f"vault-{number % _VAULTS:03}",),
    )
    subs = (SubQueue(name="high", priority=9), SubQueue(name="low", priority=1))
    return QueueSpec(name=f"queue-{number:04}", deployment=deployment, sub_queues=subs, priority=9)


def _make_people() -> None:
    """Make users and API keys."""
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


def _make_records(count: int) -> None:
    """Append records whose chain is not that of the audit: they are looked at here, not verified."""
    first = AuditRecord.objects.count() + 1
    now = timezone.now()
    for start in range(first, first + count, _BATCH):
        AuditRecord.objects.bulk_create(
            AuditRecord(
                number=number,
                at=now - timedelta(seconds=first + count - number),
                actor_kind="user",
                actor_name=f"user-{number % _USERS:03}",
                address="10.1.4.20",
                action="queue.updated",
                object_kind="queue",
                object_name=f"queue-{number % QUEUES:04}",
                changes='{"priority":{"new":9,"old":5}}',
                previous=CHAIN_BEGIN,
                digest=f"{number:064x}",
            )
            for number in range(start, min(start + _BATCH, first + count))
        )
    last = first + count - 1
    AuditHead.objects.update_or_create(pk=1, defaults={"number": last, "digest": f"{last:064x}"})


def _beat(broker: Broker, number: int) -> object:
    """Return what lets a worker say that it is alive."""
    queue = f"queue-{number:04}"
    record = WorkerRecord(
        worker_id=f"worker-{number:03}:1",
        host=f"worker-{number:03}",
        pid=1,
        server_id=f"crowd-{number}",
        queue=queue,
        redis_queues={f"{queue}_high": 9, f"{queue}_low": 1},
        state=WorkerState.READY,
        started_at_s=broker.now_s() - 3600,
    )
    return beat(record, now_ns=broker.now_ns())


def _enqueued(broker: Broker, number: int, queues: int) -> object:
    """Return what puts a task on a queue; the first queue has half of all."""
    queue = 0 if number % 2 else number % queues
    task = NewTask(id=f"task-{number:05}", queue=f"queue-{queue:04}_high", payload=b'{"n":1}')
    return enqueue(task, now_ns=broker.now_ns())
