"""Tasks that print and stream, and what is kept of it."""

import json
from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.tasks.chunks import read_chunks
from runqy.broker.tasks.output import TaskOutput, read_output
from runqy.broker.tasks.reader import find_task
from tests.support.waiting import eventually
from tests.workers.processes import add_task


def shout(broker: Broker, *lines: str, max_retry: int = 3, **payload: Any) -> str:
    """Enqueue a task that prints lines."""
    return add_task(broker, {**payload, "do": "shout", "lines": lines}, retention_s=3600, max_retry=max_retry)


def output_of(broker: Broker, task_id: str, attempt: int | None = None) -> TaskOutput:
    return broker.run(read_output("mail", task_id, attempt=attempt))


def wait_for_progress(broker: Broker, task_id: str, current: int) -> None:
    """Wait until a task has a progress, as long as `wait_for_text` may have to."""
    look = lambda: broker.run(find_task(broker, task_id)).progress
    eventually(lambda: (found := look()) and found.current == current, what=look)


def wait_for_text(broker: Broker, task_id: str, text: bytes) -> None:
    """Wait until a task has an output; a Redis that does not know the script yet has it after the end of the task."""
    eventually(lambda: output_of(broker, task_id).text == text, what=lambda: output_of(broker, task_id))


def chunks_of(broker: Broker, task_id: str) -> list[Any]:
    """Return all chunks of a task's last run."""
    part = broker.run(read_chunks("mail", task_id))
    found = [*part.entries]
    while len(found) < part.end:
        part = broker.run(read_chunks("mail", task_id, run=part.run, offset=len(found)))
        found += part.entries
    return [json.loads(chunk) for chunk in found]
