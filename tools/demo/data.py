"""Fill an instance with realistic data of a small company, by the ordinary operations."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import AlertRule
from alerts.operations import save_alert_rule, store_findings
from alerts.rules import Finding
from batches.models import Batch, CallbackState, Member
from queues.definition_serializers import parse_queue
from queues.models import Queue, QueueSource
from queues.operations import disable_queue, save_queue
from queues.pausing import pause_whole_queue
from queues.queries import get_fresh_catalog
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.broker.request import raise_error
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask, extend
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from schedules.definition_serializers import parse_schedule
from schedules.models import Fire, Schedule, ScheduleSource
from schedules.operations import pause_schedule, save_schedule
from tasks.history.record import RunRecorder
from tools.demo.backlog import make_backlog
from tools.demo.releases import make_releases
from tools.demo.runs import FAILING_S, delete_canceled_runs, make_commit, make_runs
from vaults.operations import create_vault, set_entry
from webhooks.messages import build_delivery, message_id
from webhooks.models import Endpoint, EndpointEvent
from webhooks.operations import create_endpoint

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
        "input": [{"name": "order_id", "type": "string"}],
        "webhook_hosts": ["shop.example.com"],
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

_START_FAILURE = "python serve.py ended with exit status 1: ModuleNotFoundError: No module named 'torch'"

_TASKS = {
    "transcription_interactive": (14, b'{"audio_url":"https://storage.example.com/calls/%d.ogg","language":"en"}'),
    "transcription_overnight": (140, b'{"audio_url":"https://storage.example.com/archive/%d.ogg","language":"de"}'),
    "image-tagging": (14, b'{"image_url":"https://storage.example.com/photos/%d.jpg","tags":10}'),
    "invoices": (6, b'{"order_id":"ORD-2026-%d"}'),
    "embeddings": (35, b'{"document":%d}'),
}
"""The number of waiting and running tasks and their payload, by Redis queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTasks:
    """Tasks whose first attempts ended at regular intervals until now."""

    queue: str
    first: int = 0
    """The number in the id of the first task."""
    count: int
    span_s: int
    run_ms: int
    worker_id: str
    result: bytes = b""
    """Empty if they failed."""
    error: str = ""
    is_retried: bool = False


_ENDED = (
    EndedTasks(
        queue="transcription_overnight",
        count=120,
        span_s=3600,
        run_ms=29_000,
        worker_id="gpu-rig-1:4121",
        result=b'{"text":"Good morning."}',
    ),
    EndedTasks(
        queue="image-tagging",
        count=30,
        span_s=600,
        run_ms=800,
        worker_id="gpu-rig-2:988",
        result=b'{"tags":["cat","sofa"]}',
    ),
    EndedTasks(
        queue="image-tagging",
        first=30,
        count=4,
        span_s=120,
        run_ms=30_000,
        worker_id="gpu-rig-2:988",
        error="TimeoutError: storage.example.com did not respond",
        is_retried=True,
    ),
    EndedTasks(
        queue="invoices",
        count=FAILING_S // 30,
        span_s=FAILING_S,
        run_ms=1200,
        worker_id="office-mini:35",
        error="KeyError: 'vat_id'",
    ),
)


def fill(broker: Broker) -> Callable[[], None]:
    """Create users, vaults, queues, keys, workers and tasks; return a function that sends the workers' heartbeats."""
    make_users()
    with actor_context(_user("grace")):
        make_configuration()
    with actor_context(_user("ada")):
        make_keys()
        make_alert_rules()
        make_schedules(broker)
        make_batch(broker)
    beating = make_tasks(broker)
    with actor_context(_user("linus")):
        pause_whole_queue(broker, name="embeddings")
    make_runs(broker)
    make_releases()
    make_backlog(broker)
    make_alerts()
    with actor_context(_user("grace")):
        make_webhooks()
    with actor_context(_user("linus")):
        delete_canceled_runs(broker)
    return beating


def make_users() -> None:
    """Create a user of each role, without a password."""
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


def make_webhooks() -> None:
    """Create an endpoint that works and one that fails, with what was sent to them."""
    url, events, now = "https://shop.example.com/runqy", list(EndpointEvent), timezone.now()
    working = create_endpoint(
        url=url, events=events, queues=["invoices"], include_result=True, headers={"Authorization": "Bearer example"}
    ).row
    failing = create_endpoint(url="https://reports.example.com/tasks?source=runqy", events=events[:2]).row
    states: list[tuple[Endpoint, dict[str, Any]]] = [
        (working, {"delivered_at": now, "status": 204, "duration_ms": 31, "attempts": 1}),
        (working, {"delivered_at": now, "status": 200, "duration_ms": 187, "attempts": 3, "response": "ok"}),
        (failing, {"status": 503, "attempts": 2, "error": "The endpoint responded with status 503."}),
        (failing, {"abandoned_at": now, "attempts": 10, "error": "No response within 15 s."}),
        (working, {}),
    ]
    for number, (endpoint, columns) in enumerate(states):
        task_id = f"invoices-{number:04}"
        data = {"id": task_id, "queue": "invoices", "state": "completed", "result": {"pages": number}}
        message = message_id("invoices", task_id, str(number))
        delivery = build_delivery(
            endpoint=endpoint, message=message, event=events[0], data=data, now=now, queue="invoices", task_id=task_id
        )
        for name, value in columns.items():
            setattr(delivery, name, value)
        delivery.save()
    Endpoint.objects.filter(pk=failing.pk).update(failing_since=now)


def make_keys() -> None:
    """Create API keys, one of them revoked."""
    create_api_key(name="web shop", role="client", queues=["invoices", "image-tagging"])
    create_api_key(name="gpu-rig-1", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="gpu-rig-2", role="worker", expires_at=timezone.now() + timedelta(days=180))
    create_api_key(name="nightly import", role="client", queues=["transcription"])
    old = create_api_key(name="laptop of an intern", role="client")
    revoke_api_key(key_id=old.row.pk)


def make_alert_rules() -> None:
    """Set a threshold for one queue, whose pages may fail more often than others."""
    save_alert_rule(AlertRule(kind=AlertKind.FAILURE_RATE, queue=Queue.objects.get(name="image-tagging"), threshold=40))


def make_schedules(broker: Broker) -> None:
    """Make schedules in each state, the first of which has fired."""
    definitions: list[dict[str, Any]] = [
        {"name": "monthly-invoices", "queue": "invoices", "cron": "30 2 1 * *", "time_zone": "Europe/Berlin"},
        {"name": "purge-embeddings", "queue": "embeddings", "every": "15m", "jitter": "1m"},
        {"name": "retag-images", "queue": "image-tagging", "cron": "0 */6 * * MON-FRI", "overlap": "allow"},
    ]
    for definition in definitions:
        spec, requested = parse_schedule({"payload": {"source": "schedule"}, **definition})
        save_schedule(broker, spec=spec, requested=requested, source=ScheduleSource.ADMIN)
    pause_schedule(broker, name="retag-images", reason="The labels are being renamed.")
    schedule, now = Schedule.objects.get(name="monthly-invoices"), broker.now()
    problem = "The queue invoices has 5,000 waiting tasks, its limit (max_waiting_tasks)."
    states = [("enqueued", ""), ("skipped", "Task 5f1c2a52 has not ended (overlap: skip)."), ("missed", problem)]
    for number, (state, reason) in enumerate(states, 1):
        at = now - timedelta(days=30 * (len(states) - number) + 1)
        Fire.objects.create(
            schedule=schedule,
            due_at=at,
            fire_at=at,
            until=at,
            settled_at=at,
            requested_s=int(at.timestamp()),
            number=number,
            state=state,
            reason=reason,
            task_id="invoices-0001",
            redis_queue="invoices",
        )
    Schedule.objects.filter(pk=schedule.pk).update(problem=problem, fire_count=len(states))


def make_batch(broker: Broker) -> None:
    """Make a batch that is running, with members in several states."""
    states = {"completed": 412, "archived": 3, "enqueued": 80, "waiting": 5}
    now = broker.now()
    batch = Batch.objects.create(
        name="Scans of the archive, 2026-11",
        created_by={"kind": "key", "name": "nightly import"},
        created_at=now - timedelta(minutes=7),
        queues=["image-tagging", "invoices"],
        is_closed=True,
        counts=states,
        callback_state=CallbackState.PLANNED,
        callback_queue="invoices",
    )
    ids = [(state, f"scan-{state}-{number:04}") for state, count in states.items() for number in range(count)]
    Member.objects.bulk_create(
        Member(batch=batch, task_id=task_id, redis_queue="image-tagging", state=state, requested_s=0)
        for state, task_id in ids
    )


def make_alerts() -> None:
    """Open two alerts, and resolve another one."""
    now = timezone.now()
    failing = Finding(
        kind=AlertKind.FAILURE_RATE,
        subject="invoices",
        queue="invoices",
        message="40 % of the tasks of queue invoices that ended in the last 5 minutes failed (10 of 25; 25 new tasks).",
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
        queue="embeddings",
        message=f"Worker gpu-rig-2:1002 failed to start: {_START_FAILURE}",
    )
    store_findings([old], now=now - timedelta(hours=5))
    store_findings([failed, failing], now=now - timedelta(minutes=12))


def make_tasks(broker: Broker) -> Callable[[], None]:
    """Create tasks in every state, and workers that run some of them; return the function that sends heartbeats."""
    make_ended_tasks(broker)
    for queue, (count, payload) in _TASKS.items():
        first = sum(ended.count for ended in _ENDED if ended.queue == queue)
        for number in range(first, first + count):
            broker.run(enqueue(_task(queue, number, payload), now_ns=broker.now_ns()))
    later = NewTask(
        id="invoices-later",
        queue="invoices",
        payload=b'{"order_id":"ORD-2026-0077"}',
        process_at_us=(broker.now_s() + 3600) * 10**6,
    )
    broker.run(enqueue(later, now_ns=broker.now_ns()))
    running = (
        take_tasks(broker, "transcription_interactive", 4),
        take_tasks(broker, "image-tagging", 2, worker_id="gpu-rig-2:988"),
    )
    beating = partial(beat_workers, broker, *running)
    beating()
    return beating


def make_ended_tasks(broker: Broker) -> None:
    """Run tasks at times of the last hour, and record their runs, so that Redis and the history have them."""
    for ended in _ENDED:
        _, payload = _TASKS[ended.queue]
        for number in range(ended.first, ended.first + ended.count):
            at_ns = broker.now_ns() - ended.span_s * 10**9 * (ended.first + ended.count - number) // ended.count
            broker.run(enqueue(_task(ended.queue, number, payload), now_ns=at_ns - ended.run_ms * 10**6 - 400 * 10**6))
            start_ns = at_ns - ended.run_ms * 10**6
            (taken,) = take_tasks(broker, ended.queue, 1, worker_id=ended.worker_id, now_ns=start_ns)
            if ended.result:
                broker.run(complete(taken.lease, taken.message, ended.result, now_ns=at_ns))
            elif ended.is_retried:
                failure = Failure(error=ended.error, retry_at_s=broker.now_s() + 300)
                broker.run(retry(taken.lease, taken.message, failure, now_ns=at_ns))
            else:
                broker.run(archive(taken.lease, taken.message, error=ended.error, now_ns=at_ns))
    RunRecorder().record_all(broker, [*_TASKS], get_fresh_catalog())


def _task(queue: str, number: int, payload: bytes) -> NewTask:
    return NewTask(id=f"{queue}-{number:04}", queue=queue, payload=payload % (1000 + number))


def beat_workers(broker: Broker, transcribing: list[LeasedTask], tagging: list[LeasedTask]) -> None:
    """Send the heartbeats of maintenance and of the workers, and extend the workers' leases."""
    broker.run(report_maintenance(now_s=broker.now_s()))
    broker.run(extend([one.lease for one in (*transcribing, *tagging)], now_ns=broker.now_ns()))
    overnight = {"transcription_interactive": 9, "transcription_overnight": 2}
    records = [
        (_worker("gpu-rig-1", 4121, "transcription", overnight, concurrency=4), transcribing),
        (_worker("gpu-rig-2", 988, "image-tagging", {"image-tagging": 6}, concurrency=2), tagging),
        (_worker("office-mini", 35, "invoices", {"invoices": 7}), []),
        (
            _worker(
                *("gpu-rig-2", 1002, "embeddings", {"embeddings": 3}),
                state=WorkerState.START_FAILED,
                reason=_START_FAILURE,
            ),
            [],
        ),
    ]
    for record, taken in records:
        broker.run(write_heartbeat(record, [_running(broker, one) for one in taken], now_ns=broker.now_ns()))


def _worker(host: str, pid: int, queue: str, redis_queues: dict[str, int], **facts: Any) -> WorkerRecord:
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
        commit=make_commit(queue, 2),
        started_at_s=now - 86_400 * 3,
        last_take_s=now - 4,
        version="1.0.0",
        **facts,
    )


def _running(broker: Broker, taken: LeasedTask) -> RunningTask:
    return RunningTask(
        task_id=taken.lease.task_id,
        redis_queue=taken.lease.queue,
        task_type=taken.lease.queue,
        payload=taken.message.payload,
        started_ns=broker.now_ns(),
        deadline_s=broker.now_s() + 1800,
    )


def take_tasks(
    broker: Broker, queue: str, count: int, *, worker_id: str = "gpu-rig-1:4121", now_ns: int | None = None
) -> list[LeasedTask]:
    """Dequeue tasks as a worker does, now or at another time."""
    order = plan_dequeue([QueueWeight(queue=queue)], count, worker_id=worker_id)
    return raise_error(
        broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns() if now_ns is None else now_ns))[0]
    )


def _user(name: str) -> Actor:
    return Actor(kind=ActorKind.USER, name=name, id=str(User.objects.get(username=name).pk), address="10.1.4.20")
