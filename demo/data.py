"""Fills an instance with what a small company might have on it, by the operations that people use."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from queues.config import parse_spec
from queues.models import Source
from queues.operations import disable_queue, save_queue
from queues.switching import pause_whole_queue
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.broker.broker import Broker
from runqy.broker.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.enqueue import NewTask, enqueue
from runqy.broker.finishing import Failure, archive, complete, retry
from runqy.broker.health import report_maintenance
from runqy.broker.heartbeats import beat
from runqy.broker.lease import LeasedTask
from runqy.broker.worker_records import RunningTask, WorkerRecord, WorkerState
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
"""How many tasks of each Redis queue are made, and their payload."""


def fill(broker: Broker) -> Callable[[], None]:
    """Make users, vaults, queues, keys, workers and tasks; return what keeps the workers alive."""
    make_users()
    with actor_context(_user("grace")):
        make_configuration()
    with actor_context(_user("ada")):
        make_keys()
    beating = make_tasks(broker)
    with actor_context(_user("linus")):
        pause_whole_queue(broker, name="embeddings")
    return beating


def make_users() -> None:
    """Make one user of each role; none can log in with a password."""
    for name, role in USERS.items():
        user = User.objects.create_user(name, email=f"{name}@example.com", is_staff=True)
        user.groups.add(Group.objects.get(name=role))


def make_configuration() -> None:
    """Make vaults and queues, and change some of them."""
    for name, (description, entries) in VAULTS.items():
        create_vault(name=name, description=description)
        for key, (value, is_secret) in entries.items():
            set_entry(vault=name, key=key, value=value, is_secret=is_secret)
    for name, written in QUEUES.items():
        save_queue(spec=parse_spec(name, written), source=Source.ADMIN)
    set_entry(vault="model-hub", key="HUB_TOKEN", value="hub_exampleB8eR1nAqW4uO", is_secret=True)
    changed = QUEUES["image-tagging"] | {"priority": 6}
    save_queue(spec=parse_spec("image-tagging", changed), source=Source.ADMIN)
    disable_queue(name="video-preview")


def make_keys() -> None:
    """Make API keys, one of them revoked."""
    create_api_key(name="web shop", role="client", queues=["invoices", "image-tagging"])
    create_api_key(name="gpu-rig-1", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="gpu-rig-2", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="nightly import", role="client", queues=["transcription"])
    old = create_api_key(name="laptop of an intern", role="client")
    revoke_api_key(key_id=old.row.pk)


def make_tasks(broker: Broker) -> Callable[[], None]:
    """Make tasks in every state, and the workers that run some of them; return what lets these beat."""
    for queue, (count, payload) in _TASKS.items():
        for number in range(count):
            payload_of_one = payload % (1000 + number)
            task = NewTask(id=f"{queue}-{number:04}", queue=queue, payload=payload_of_one)
            broker.run(enqueue(task, now_ns=broker.now_ns()))
    later = NewTask(
        id="invoices-later", queue="invoices", payload=b'{"order_id":77}', process_at_s=broker.now_s() + 3600
    )
    broker.run(enqueue(later, now_ns=broker.now_ns()))
    for taken in _take(broker, "transcription_overnight", 120):
        _end(broker, complete(taken.lease, taken.message, b'{"text":"Good morning."}', now_ns=broker.now_ns()))
    for taken in _take(broker, "image-tagging", 30):
        _end(broker, complete(taken.lease, taken.message, b'{"tags":["cat","sofa"]}', now_ns=broker.now_ns()))
    for taken in _take(broker, "image-tagging", 4):
        failure = Failure(error="TimeoutError: storage.example.com did not answer", retry_at_s=broker.now_s() + 300)
        _end(broker, retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    for taken in _take(broker, "invoices", 3):
        _end(broker, archive(taken.lease, taken.message, error="KeyError: 'vat_id'", now_ns=broker.now_ns()))
    running = _take(broker, "transcription_interactive", 4), _take(broker, "image-tagging", 2)
    beating = partial(beat_workers, broker, *running)
    beating()
    return beating


def beat_workers(broker: Broker, transcribing: list[LeasedTask], tagging: list[LeasedTask]) -> None:
    """Let maintenance and workers report that they run, and what."""
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
        broker.run(beat(record, [_running(broker, one) for one in taken], now_ns=broker.now_ns()))


def _worker(host: str, pid: int, queue: str, redis_queues: dict[str, int], **facts: Any) -> WorkerRecord:
    """Return what a worker says about itself."""
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
    """Return a task as its worker reports it."""
    return RunningTask(
        task_id=taken.lease.task_id,
        redis_queue=taken.lease.queue,
        task_type=taken.lease.queue,
        payload=taken.message.payload,
        started_ns=broker.now_ns(),
        deadline_s=broker.now_s() + 1800,
    )


def _take(broker: Broker, queue: str, count: int) -> list[LeasedTask]:
    """Take tasks as a worker does."""
    order = plan_dequeue([QueueWeight(queue=queue)], count, worker_id="gpu-rig-1:4121")
    return broker.run(dequeue_tasks(order, now_ns=broker.now_ns()))[0]


def _end(broker: Broker, request: Any) -> None:
    """End a run."""
    broker.run(request)


def _user(name: str) -> Actor:
    """Return one of the users as the audit names them."""
    return Actor(kind=ActorKind.USER, name=name, id="1", address="10.1.4.20")
