"""Fill an instance with realistic data of a small company, through the ordinary operations."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from alerts.models import AlertRule
from alerts.operations import save_alert_rule, store_findings
from alerts.rules import AlertKind, Finding
from demo.runs import delete_canceled_runs, make_runs
from queues.definition_serializers import parse_queue
from queues.models import Queue, QueueSource
from queues.operations import disable_queue, save_queue
from queues.pausing import pause_whole_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from tasks.histograms import bucket_of
from tasks.rollups import MINUTE_S, ROLLUPS, RollupDelta, add_to_rollups, floor_time
from vaults.operations import create_vault, set_entry

QUEUES: dict[str, dict[str, Any]] = {
    "transcription": {
        "sub_queues": [{"name": "interactive", "priority": 9}, {"name": "overnight", "priority": 2}],
        "deployment": {
            "git_url": "https://git.example.com/ml/transcription.git",
            "branch": "main",
            "startup_cmd": "python worker.py --model large-v3",
            "env_vars": {"MODEL_DIR": "/var/models", "BATCH_SIZE": "8"},
            "vaults": ["object-storage", "model-hub"],
            "limits": {"max_retry": 2, "active_timeout": 1800},
        },
        "input": [
            {"name": "audio_url", "type": "string"},
            {"name": "language", "type": "string", "default": "en"},
            {"name": "diarize", "type": "bool", "default": False},
        ],
        "output": [{"name": "text", "type": "string"}],
    },
    "image-tagging": {
        "priority": 5,
        "deployment": {
            "git_url": "https://git.example.com/ml/image-tagging.git",
            "startup_cmd": "python main.py",
            "vaults": ["object-storage"],
        },
        "input": [{"name": "image_url", "type": "string"}, {"name": "tags", "type": "int", "default": 10}],
    },
    "invoices": {
        "priority": 7,
        "mode": "one_shot",
        "deployment": {
            "git_url": "https://git.example.com/billing/invoices.git",
            "branch": "stable",
            "startup_cmd": "python render.py",
            "vaults": ["mail"],
        },
        "input": [{"name": "order_id", "type": "int"}],
    },
    "embeddings": {
        "priority": 3,
        "deployment": {
            "git_url": "https://git.example.com/ml/embeddings.git",
            "startup_cmd": "python serve.py",
            "vaults": ["model-hub"],
        },
    },
    "video-preview": {
        "priority": 1,
        "deployment": {"git_url": "https://git.example.com/media/preview.git", "startup_cmd": "python preview.py"},
    },
}

VAULTS: dict[str, tuple[str, dict[str, tuple[str, bool]]]] = {
    "object-storage": (
        "Where audio and images are",
        {
            "S3_ENDPOINT": ("https://storage.example.com", False),
            "S3_BUCKET": ("customer-media", False),
            "S3_ACCESS_KEY_ID": ("AKIAEXAMPLE7Q2M4X9ZT", True),
            "S3_SECRET_ACCESS_KEY": ("wJalrEXAMPLEKEYbPxRfiCYEXAMPLE", True),
        },
    ),
    "model-hub": ("Reading the private models", {"HUB_TOKEN": ("hub_exampleA7dQ0mZpV3tN", True)}),
    "mail": (
        "Sending invoices",
        {"SMTP_HOST": ("smtp.example.com", False), "SMTP_PASSWORD": ("mail-Example-91f", True)},
    ),
}

USERS = {"ada": "admin", "grace": "configurator", "linus": "operator", "margaret": "viewer"}

_TASKS = {
    "transcription_interactive": (14, b'{"audio_url":"https://storage.example.com/calls/%d.ogg","language":"en"}'),
    "transcription_overnight": (260, b'{"audio_url":"https://storage.example.com/archive/%d.ogg","language":"de"}'),
    "image-tagging": (48, b'{"image_url":"https://storage.example.com/photos/%d.jpg","tags":10}'),
    "invoices": (9, b'{"order_id":%d}'),
    "embeddings": (35, b'{"document":%d}'),
}
"""Number of tasks and payload by Redis queue."""


def fill(broker: Broker) -> Callable[[], None]:
    """Create users, vaults, queues, keys, workers and tasks; return a function that sends the workers' heartbeats."""
    make_users()
    with actor_context(_user("grace")):
        make_configuration()
    with actor_context(_user("ada")):
        make_keys()
        make_alert_rules()
    beating = make_tasks(broker)
    with actor_context(_user("linus")):
        pause_whole_queue(broker, name="embeddings")
    make_history(broker)
    make_alerts()
    make_runs(broker)
    with actor_context(_user("linus")):
        delete_canceled_runs(broker)
    return beating


def make_users() -> None:
    """Create one user of each role, without passwords."""
    for name, role in USERS.items():
        user = User.objects.create_user(name, email=f"{name}@example.com", is_staff=True)
        user.groups.add(Group.objects.get(name=role))


def make_configuration() -> None:
    """Create vaults and queues, and change some of them."""
    for name, (description, entries) in VAULTS.items():
        create_vault(name=name, description=description)
        for key, (value, is_secret) in entries.items():
            set_entry(vault=name, key=key, value=value, is_secret=is_secret)
    for name, written in QUEUES.items():
        save_queue(spec=parse_queue(name, written), source=QueueSource.ADMIN)
    set_entry(vault="model-hub", key="HUB_TOKEN", value="hub_exampleB8eR1nAqW4uO", is_secret=True)
    changed = QUEUES["image-tagging"] | {"priority": 6}
    save_queue(spec=parse_queue("image-tagging", changed), source=QueueSource.ADMIN)
    disable_queue(name="video-preview")


def make_keys() -> None:
    """Create API keys, one of them revoked."""
    create_api_key(name="web shop", role="client", queues=["invoices", "image-tagging"])
    create_api_key(name="gpu-rig-1", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="gpu-rig-2", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="nightly import", role="client", queues=["transcription"])
    old = create_api_key(name="laptop of an intern", role="client")
    revoke_api_key(key_id=old.row.pk)


def make_alert_rules() -> None:
    """Set a threshold for one queue: pages are allowed to fail more often than others."""
    save_alert_rule(AlertRule(kind=AlertKind.FAILURE_RATE, queue=Queue.objects.get(name="image-tagging"), threshold=40))


def make_alerts() -> None:
    """Open two alerts, and resolve another one."""
    now = timezone.now()
    failing = Finding(
        kind=AlertKind.FAILURE_RATE,
        subject="invoices",
        queue="invoices",
        message="38 % of the runs of queue invoices failed in the last 5 minutes (46 of 121).",
    )
    old = Finding(
        kind=AlertKind.OLDEST_PENDING,
        subject="transcription",
        queue="transcription",
        message="The oldest pending task of queue transcription has been waiting for 14 min.",
    )
    failed = Finding(
        kind=AlertKind.WORKER_START_FAILED,
        subject="gpu-rig-2:1002",
        queue="image-tagging",
        message="Worker gpu-rig-2:1002 failed to start: requirements.txt: no such file",
    )
    store_findings([old], now=now - timedelta(hours=5))
    store_findings([failed, failing], now=now - timedelta(minutes=12))


def make_history(broker: Broker) -> None:
    """Add a week of statistics: more by day than by night, with failures that began half an hour ago."""
    now = floor_time(timezone.now(), MINUTE_S)
    minutes = [now - timedelta(minutes=minute) for minute in range(1, 61)]
    hours = [now - timedelta(hours=hour) for hour in range(2, 24 * 7)]
    for number, name in enumerate(("transcription", "image-tagging", "invoices", "embeddings")):
        random = Random(number)  # noqa: S311 (the same instance each time)
        starts = (*minutes, *hours)
        add_to_rollups({(name, at): _statistics(random, at, now, 60 if at in hours else 1, name) for at in starts})
    for count in broker.run(count_tasks(list(_TASKS), now_ns=broker.now_ns())):
        _add_samples(count, [*reversed(hours), *reversed(minutes)], now)


def _add_samples(count: QueueCounts, times: list[datetime], now: datetime) -> None:
    """Add samples of the backlog, oldest first; a queue that was paused half an hour ago has kept its backlog."""
    random = Random(count.queue)  # noqa: S311 (the same instance each time)
    samples: dict[datetime, int] = {}
    for at in times:
        usual = count.pending if 7 <= at.hour < 19 else count.pending // 4
        is_paused = count.is_paused and at >= now - timedelta(minutes=30)
        samples[at] = count.pending if is_paused else usual + random.randint(0, 2 + usual // 4)
    for model, interval_s in ROLLUPS:
        rows = {
            floor_time(at, interval_s): {"backlog": pending, "backlog_max": pending, "oldest_ms": pending * 400}
            for at, pending in samples.items()
        }
        model._default_manager.bulk_create(
            [
                model(redis_queue=count.queue, queue=count.queue.partition("_")[0], start=start, **row)
                for start, row in rows.items()
            ],
            update_conflicts=True,
            unique_fields=["redis_queue", "start"],
            update_fields=["backlog", "backlog_max", "oldest_ms"],
        )


def _statistics(random: Random, at: datetime, now: datetime, minutes: int, queue: str) -> RollupDelta:
    """Return what a queue did in some minutes."""
    delta = RollupDelta(queue)
    runs = minutes * random.randint(8, 14) * (2 if 7 <= at.hour < 19 else 1)
    is_failing = queue == "invoices" and at > now - timedelta(minutes=30)
    failed = runs * 2 // 5 if is_failing else random.randint(0, max(runs // 40, 1))
    delta.counts.update({"completed": runs - failed, "failed": failed, "canceled": random.randint(0, 1)})
    for histogram, typical_ms in ((delta.wait_histogram, 400), (delta.run_histogram, 2500)):
        for factor, share in ((0.5, 4), (1, 10), (2, 4), (6, 1)):
            bucket = bucket_of(typical_ms * factor * random.uniform(0.8, 1.25))
            histogram[bucket] = histogram.get(bucket, 0) + max(runs * share // 19, 1)
    return delta


def make_tasks(broker: Broker) -> Callable[[], None]:
    """Create tasks in every state, and workers that run some of them; return their heartbeat function."""
    for queue, (count, payload) in _TASKS.items():
        for number in range(count):
            payload_of_one = payload % (1000 + number)
            task = NewTask(id=f"{queue}-{number:04}", queue=queue, payload=payload_of_one)
            broker.run(enqueue(task, now_ns=broker.now_ns()))
    later = NewTask(
        id="invoices-later", queue="invoices", payload=b'{"order_id":77}', process_at_s=broker.now_s() + 3600
    )
    broker.run(enqueue(later, now_ns=broker.now_ns()))
    for taken in take_tasks(broker, "transcription_overnight", 120):
        broker.run(complete(taken.lease, taken.message, b'{"text":"Good morning."}', now_ns=broker.now_ns()))
    for taken in take_tasks(broker, "image-tagging", 30):
        broker.run(complete(taken.lease, taken.message, b'{"tags":["cat","sofa"]}', now_ns=broker.now_ns()))
    for taken in take_tasks(broker, "image-tagging", 4):
        failure = Failure(error="TimeoutError: storage.example.com did not respond", retry_at_s=broker.now_s() + 300)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    for taken in take_tasks(broker, "invoices", 3):
        broker.run(archive(taken.lease, taken.message, error="KeyError: 'vat_id'", now_ns=broker.now_ns()))
    running = take_tasks(broker, "transcription_interactive", 4), take_tasks(broker, "image-tagging", 2)
    beating = partial(beat_workers, broker, *running)
    beating()
    return beating


def beat_workers(broker: Broker, transcribing: list[LeasedTask], tagging: list[LeasedTask]) -> None:
    """Send heartbeats of maintenance and the workers."""
    broker.run(report_maintenance(now_s=broker.now_s()))
    overnight = {"transcription_interactive": 9, "transcription_overnight": 2}
    records = [
        (_worker("gpu-rig-1", 4121, "transcription", overnight, concurrency=4), transcribing),
        (_worker("gpu-rig-2", 988, "image-tagging", {"image-tagging": 6}, concurrency=2), tagging),
        (_worker("office-mini", 35, "invoices", {"invoices": 7}), []),
        (
            _worker(
                *("gpu-rig-2", 1002, "embeddings", {"embeddings": 3}),
                state=WorkerState.START_FAILED,
                reason="python serve.py ended with exit status 1: ModuleNotFoundError: No module named 'torch'",
            ),
            [],
        ),
    ]
    for record, taken in records:
        broker.run(write_heartbeat(record, [_running(broker, one) for one in taken], now_ns=broker.now_ns()))


def _worker(host: str, pid: int, queue: str, redis_queues: dict[str, int], **facts: Any) -> WorkerRecord:
    """Return the heartbeat of a worker."""
    now = int(timezone.now().timestamp())
    state = facts.pop("state", WorkerState.READY)
    return WorkerRecord(
        worker_id=f"{host}:{pid}",
        host=host,
        pid=pid,
        server_id=f"demo-{pid}",
        queue=queue,
        redis_queues=redis_queues,
        state=state,
        commit="8b1c0de4f2a97c35d6e1b0a4958372615f4e3d2c",
        started_at_s=now - 86_400 * 3,
        last_take_s=now - 4,
        version="0.1.0",
        **facts,
    )


def _running(broker: Broker, taken: LeasedTask) -> RunningTask:
    """Return an active task of a heartbeat."""
    return RunningTask(
        task_id=taken.lease.task_id,
        redis_queue=taken.lease.queue,
        task_type=taken.lease.queue,
        payload=taken.message.payload,
        started_ns=broker.now_ns(),
        deadline_s=broker.now_s() + 1800,
    )


def take_tasks(broker: Broker, queue: str, count: int, *, worker_id: str = "gpu-rig-1:4121") -> list[LeasedTask]:
    """Dequeue tasks as a worker does."""
    order = plan_dequeue([QueueWeight(queue=queue)], count, worker_id=worker_id)
    return broker.run(dequeue_tasks(order, now_ns=broker.now_ns()))[0]


def _user(name: str) -> Actor:
    """Return a user as the audit's actor."""
    return Actor(kind=ActorKind.USER, name=name, id=str(User.objects.get(username=name).pk), address="10.1.4.20")
