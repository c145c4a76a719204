"""Runs of a week for the history of a demo instance, and a bulk action on some of them."""

from dataclasses import dataclass
from random import Random

from msgspec.structs import asdict

from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import EndedRun
from tasks.actions import TaskAction
from tasks.bulk_actions import create_bulk_action, preview_bulk_action
from tasks.bulk_runner import run_bulk_actions
from tasks.models import TaskRun
from tasks.run_history import QueueIdentity, build_row
from tasks.task_browser import TaskQuery

_COMMITS = ("5d2f6f1a0c3be97d84a1f0265cb7d93e8814af60", "8b1c0de4f2a97c35d6e1b0a4958372615f4e3d2c")
_FAILURES = (
    [RunOutcome.RETRIED, RunOutcome.COMPLETED],
    [RunOutcome.RETRIED, RunOutcome.RETRIED, RunOutcome.FAILED],
    [RunOutcome.FAILED],
    [RunOutcome.TIMED_OUT],
    [RunOutcome.LOST],
    [RunOutcome.CANCELED],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKind:
    """The runs of a Redis queue in the history."""

    queue: str
    sub_queue: str = ""
    payload: bytes
    seconds: float
    """A typical duration."""
    errors: tuple[str, ...]

    @property
    def redis_queue(self) -> str:
        return f"{self.queue}_{self.sub_queue}" if self.sub_queue else self.queue


_RUNS = (
    RunKind(
        queue="transcription",
        sub_queue="interactive",
        payload=b'{"audio_url":"https://storage.example.com/calls/%d.ogg","language":"en"}',
        seconds=14.0,
        errors=("TimeoutError: storage.example.com did not respond within %d ms",),
    ),
    RunKind(
        queue="image-tagging",
        payload=b'{"image_url":"https://storage.example.com/photos/%d.jpg","tags":10}',
        seconds=0.8,
        errors=(
            "Traceback (most recent call last):\n"
            '  File "/srv/image-tagging/main.py", line 48, in tag\n    image = load(task["image_url"])\n'
            '  File "/srv/image-tagging/images.py", line 17, in load\n    return Image.open(stream)\n'
            "PIL.UnidentifiedImageError: cannot identify image file %d",
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate %d MiB",
        ),
    ),
    RunKind(
        queue="invoices",
        payload=b'{"order_id":"ORD-2026-%d","customer":{"name":"Anna","vat_id":null}}',
        seconds=2.5,
        errors=("KeyError: 'vat_id' of %d",),
    ),
    RunKind(
        queue="embeddings",
        payload=b'{"document":%d}',
        seconds=0.1,
        errors=("ModuleNotFoundError: No module named 'torch' (%d)",),
    ),
)


def make_runs(broker: Broker) -> None:
    """Store runs: most of them completed, some failed in ways of their queue. Charts have data of their own."""
    now_ns, randomness = broker.now_ns(), Random(1)  # noqa: S311 (no secret)
    for kind in _RUNS:
        runs = [run for number in range(160) for run in _runs_of_task(kind, number, randomness, now_ns)]
        identity = QueueIdentity(redis_queue=kind.redis_queue, queue=kind.queue, sub_queue=kind.sub_queue)
        runs.sort(key=lambda run: run.ended_ns)
        TaskRun.objects.bulk_create(TaskRun(**asdict(build_row(identity, run))) for run in runs)


def _runs_of_task(kind: RunKind, number: int, randomness: Random, now_ns: int) -> list[EndedRun]:
    """Return the runs of a task that ended in the last week."""
    task_id = f"{kind.redis_queue}-run-{number:04}"
    started_ns = now_ns - int(randomness.random() ** 2 * 7 * 86_400e9) - 120 * 10**9
    outcomes = [RunOutcome.COMPLETED]
    if randomness.random() < 0.2:
        outcomes = randomness.choice(_FAILURES)
    runs = []
    for spent, outcome in enumerate(outcomes):
        ended_ns = started_ns + int(randomness.lognormvariate(0, 0.6) * kind.seconds * 1e9)
        is_failure = outcome not in (RunOutcome.COMPLETED, RunOutcome.CANCELED)
        runs.append(
            EndedRun(
                task_id=task_id,
                run_id=f"{task_id}-{spent}",
                outcome=outcome,
                is_final=spent + 1 == len(outcomes),
                attempt=spent + 1,
                enqueued_ns=started_ns - int(randomness.random() * 40e9) if not spent else None,
                started_ns=started_ns,
                ended_ns=ended_ns,
                worker_id=randomness.choice(["gpu-rig-1:4121", "gpu-rig-2:988"]),
                commit=_COMMITS[started_ns > now_ns - 86_400 * 10**9],
                payload=kind.payload % (5000 + number),
                result=b'{"pages":3,"language":"en"}' if outcome is RunOutcome.COMPLETED else None,
                error=randomness.choice(kind.errors) % randomness.randrange(10_000) if is_failure else "",
            )
        )
        started_ns = ended_ns + 15 * 10**9
    return runs


def delete_canceled_runs(broker: Broker) -> None:
    """Request a bulk action, and apply it; Redis has none of these tasks."""
    query = TaskQuery(queue="embeddings", outcomes=(RunOutcome.CANCELED,))
    create_bulk_action(action=TaskAction.DELETE, query=query, expected=preview_bulk_action(broker, query).count)
    run_bulk_actions(broker)
