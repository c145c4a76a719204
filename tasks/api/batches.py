"""Batches over HTTP: what a body asks for, and what the answer says about each of its jobs."""

from typing import Any

import msgspec
from rest_framework import serializers

from runqy.api.bodies import Members
from runqy.errors import RequestInvalid
from tasks import payloads
from tasks.api.inputs import LONGEST_NAME, read_data, read_queue
from tasks.api.options import MOST_SECONDS, OPTIONS, UNIQUENESS, GivenOptions, read_options
from tasks.batches import MOST_TASKS, BatchItem, BatchSpec, EnqueuedBatch, check_size
from tasks.task_specs import TaskSpec

SHARED_OPTIONS = tuple(option for option in OPTIONS if option not in UNIQUENESS)
"""Options that count for all jobs which say nothing else."""
_WRAPPED = {"data", *OPTIONS}

_decode_jobs = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_batch(members: Members) -> BatchSpec:
    """Return the queue and the tasks that a body asks for; in the place of a job that is wrong stands what is wrong.

    Raises RequestInvalid for what concerns them all, BatchTooLarge.
    """
    jobs = members.pop("jobs", None)
    given = GivenOptions({name: members.pop(name) for name in ("queue", *SHARED_OPTIONS) if name in members})
    queue = read_queue(given)
    shared = read_options(given)
    raw_jobs = _jobs(jobs, given.errors)
    given.errors.extend(f"{name[:64]}: is unknown" for name in members)
    if given.errors:
        raise RequestInvalid(errors=given.errors)
    check_size(len(raw_jobs))
    return BatchSpec(queue, [_element(queue, job, shared) for job in raw_jobs])


def _jobs(raw: msgspec.Raw | None, errors: list[str]) -> list[msgspec.Raw]:
    """Return the jobs, unread."""
    if raw is None:
        errors.append("jobs: is required")
    elif not bytes(raw).startswith(b"["):
        errors.append("jobs: must be a list")
    else:
        return _decode_jobs(raw)
    return []


def _element(queue: str, job: msgspec.Raw, shared: dict[str, Any]) -> BatchItem:
    """Return the task that a job asks for: wrapped, with the payload in `data`, or itself the payload."""
    text = bytes(job)
    members = _decode_members(text) if text.startswith(b"{") and b'"data"' in text else {}
    if "data" not in members or not members.keys() <= _WRAPPED:
        if not text.startswith(b"{"):
            return RequestInvalid(errors=["must be an object"])
        return TaskSpec(queue=queue, payload=payloads.one_line(text), **shared)
    data = members.pop("data")
    given = GivenOptions(members)
    own = read_options(given)
    payload = read_data(data, given.errors)
    if given.errors:
        return RequestInvalid(errors=given.errors)
    if "delay_ns" in own or "process_at_ns" in own:
        shared = {name: value for name, value in shared.items() if name not in ("delay_ns", "process_at_ns")}
    return TaskSpec(queue=queue, payload=payload, **shared | own)


def batch_info(batch: EnqueuedBatch) -> dict[str, Any]:
    """Return what the API says about a batch: ids and errors line up with the jobs."""
    failed = sum(item.error is not None for item in batch.results)
    existing = [place for place, item in enumerate(batch.results) if item.is_existing]
    return {
        "enqueued": len(batch.results) - failed - len(existing),
        "failed": failed,
        "task_ids": [item.task_id for item in batch.results],
        "errors": [item.error and item.error.detail for item in batch.results],
        "existing": existing,
    }


class BatchBody(serializers.Serializer[object]):
    """The body of `POST /queue/add-batch`; options beside `jobs` count for all that say nothing else."""

    queue = serializers.CharField(
        min_length=1, max_length=LONGEST_NAME, help_text="`inference`, or one of its sub-queues: `inference_high`"
    )
    jobs = serializers.ListField(
        child=serializers.JSONField(),
        min_length=1,
        max_length=MOST_TASKS,
        help_text="Payloads, or objects with the payload in `data` and options of their own beside it",
    )
    timeout = serializers.IntegerField(
        required=False, min_value=0, max_value=MOST_SECONDS, help_text="Seconds one run may take"
    )
    delay = serializers.JSONField(required=False, help_text="Seconds, or a duration such as `15m`")
    process_at = serializers.DateTimeField(required=False, help_text="Instead of `delay`")
    deadline = serializers.DateTimeField(required=False, help_text="After this it does not run any more")
    max_retry = serializers.IntegerField(required=False, min_value=0, max_value=1000)
    retention = serializers.IntegerField(
        required=False, min_value=0, max_value=MOST_SECONDS, help_text="Seconds to keep the result"
    )


class BatchAnswer(serializers.Serializer[object]):
    """What `POST /queue/add-batch` answers."""

    enqueued = serializers.IntegerField(help_text="How many tasks were queued")
    failed = serializers.IntegerField(help_text="How many were not")
    task_ids = serializers.ListField(
        child=serializers.CharField(allow_null=True), help_text="In the order of the jobs; null where one failed"
    )
    errors = serializers.ListField(  # type: ignore[assignment]
        child=serializers.CharField(allow_null=True), help_text="In the order of the jobs; null where none failed"
    )
    existing = serializers.ListField(
        child=serializers.IntegerField(), help_text="Places of jobs whose unique key an earlier task has, which is told"
    )
