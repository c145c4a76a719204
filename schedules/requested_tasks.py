"""The task that a schedule requests: the same body as that of `POST /queue/add`, and read by the same parser."""

from typing import Any

import msgspec

from runqy.broker.tasks.enqueue import NewTask
from runqy.errors import RequestInvalid
from schedules.specs import ScheduleSpec
from tasks.api.enqueue_bodies import OPTIONS, parse_enqueue

SINGLE = {
    "task_id": "Each fire makes an id of its own.",
    "process_at": "Each fire has a time of its own; use delay.",
    "deadline": "It would be the same for all fires.",
}
"""Options of a single task, and why a schedule has none of them."""
ALLOWED_OPTIONS = tuple(name for name in OPTIONS if name != "queue" and name not in SINGLE)


def request_task(spec: ScheduleSpec) -> NewTask:
    """Return the task that each fire enqueues. Raise RequestInvalid with a message for each wrong option."""
    if errors := [f"options.{name}: {_reason(name)}" for name in spec.options if name not in ALLOWED_OPTIONS]:
        raise RequestInvalid(errors=errors)
    body: dict[str, Any] = {**spec.options, "queue": spec.queue, "data": msgspec.Raw(spec.payload.encode())}
    try:
        return parse_enqueue(msgspec.json.encode(body))
    except RequestInvalid as error:
        raise RequestInvalid(errors=[_as_option(message) for message in error.errors]) from None


def _reason(name: str) -> str:
    return SINGLE.get(name) or f"Unknown option. Options: {', '.join(ALLOWED_OPTIONS)}."


def _as_option(message: str) -> str:
    if message.startswith("data:"):
        return message.replace("data:", "payload:", 1)
    return message if message.startswith("queue:") else f"options.{message}"
