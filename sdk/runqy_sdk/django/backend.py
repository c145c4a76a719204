"""The backend that the setting TASKS names. It enqueues on a runqy server."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar, cast

from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.utils import timezone

from runqy_sdk import client as api
from runqy_sdk.client.api_errors import TaskNotFound
from runqy_sdk.client.operations import encode
from runqy_sdk.django.interface import (
    BaseTaskBackend,
    InvalidTaskBackend,
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from runqy_sdk.django.payloads import Payload, make_payload, read_task

UNKNOWN_ERROR = "runqy_sdk.client.errors.TaskFailed"
"""The exception class of an error without one: the task was cancelled, or it was not started in time."""

_STATUSES = {
    "active": TaskResultStatus.RUNNING,
    "completed": TaskResultStatus.SUCCESSFUL,
    "archived": TaskResultStatus.FAILED,
}
_OPTIONS = {"url", "api_key", "timeout", "retry_for", "priorities", "enqueue_on_commit", "using"}

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("runqy_sdk.django")


@cache
def make_client(url: str | None, api_key: str | None, timeout: float, retry_for: float) -> api.Client:
    """Return a client with connections of its own. Django makes a backend for each thread, and these share it."""
    return api.Client(url, api_key, timeout=timeout, retry_for=retry_for)


# Two processes must not read from the same connection.
os.register_at_fork(after_in_child=make_client.cache_clear)


class RunqyBackend(BaseTaskBackend):
    """Enqueues Django's tasks on a runqy server, and reads their results from it."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)  # type: ignore[arg-type] # a dict, in one of the two packages
        options = self.options
        if unknown := sorted(options.keys() - _OPTIONS):
            raise InvalidTaskBackend(f"TASKS[{alias!r}]: OPTIONS has no {unknown[0]!r}, only {sorted(_OPTIONS)}")
        priorities = options.get("priorities", {})
        if not all(isinstance(least, int) for least in priorities.values()):
            raise InvalidTaskBackend(
                f"TASKS[{alias!r}]: priorities maps sub-queues to their lowest priority, as in {{'high': 50, 'low': 0}}"
            )
        self.priorities: list[tuple[str, int]] = sorted(priorities.items(), key=lambda item: -item[1])
        self.supports_priority = bool(self.priorities)
        self.enqueue_on_commit = bool(options.get("enqueue_on_commit", True))
        self.using: str = options.get("using", DEFAULT_DB_ALIAS)

    @property
    def client(self) -> api.Client:
        """The client of the server. Raise ConfigurationError."""
        options = self.options
        return make_client(
            options.get("url"), options.get("api_key"), options.get("timeout", 5.0), options.get("retry_for", 10.0)
        )

    def redis_queue(self, task: Task[..., Any]) -> str:
        """Return the queue of a task, or the sub-queue for its priority."""
        names = [name for name, least in self.priorities if task.priority >= least]
        lowest = [name for name, _ in self.priorities[-1:]]
        return ".".join([task.queue_name, *(names or lowest)[:1]])

    def enqueue(self, task: Task[P, R], args: Any, kwargs: Any) -> TaskResult[P, R]:
        """Enqueue a task, in a transaction when it is committed. Return its result at once.

        Raise InvalidTask; TypeError or ValueError for arguments that are not JSON; ClientError if the server does not
        take it. After a commit that is logged instead, with the id of the task, which is lost.
        """
        self.validate_task(task)
        result: TaskResult[P, R] = TaskResult(
            task=task,
            id=str(uuid.uuid4()),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        # As the server gets it: what changes an argument before the commit does not change the task.
        payload: Payload = json.loads(encode(make_payload(task, result.args, result.kwargs)))
        connection = transaction.get_connection(self.using)
        # No connection, no transaction: to ask for autocommit would connect.
        if self.enqueue_on_commit and connection.connection is not None and not connection.get_autocommit():
            send = partial(self._send_after_commit, result, payload)
            transaction.on_commit(send, using=self.using, robust=True)
        else:
            self._send(result, payload)
        return result

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return the result of a task. Raise TaskResultDoesNotExist, ClientError; InvalidTask if it has no function."""
        try:
            found = self.client.get(str(uuid.UUID(result_id)))
        except (ValueError, AttributeError, TaskNotFound):
            raise TaskResultDoesNotExist(result_id) from None
        payload = cast("object", found.payload)
        if not (isinstance(payload, dict) and "task" in payload):
            raise TaskResultDoesNotExist(result_id)  # a task of another program
        return _read_result(found, self.alias)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        if self.using in connections:
            return []
        message = f"TASKS[{self.alias!r}]: using: there is no database {self.using!r}."
        return [checks.Error(message, id="runqy_sdk.E001")]

    def _send(self, result: TaskResult[..., Any], payload: Payload) -> None:
        task = result.task
        run_after = task.run_after
        if run_after is not None and timezone.is_naive(run_after):  # without USE_TZ
            run_after = timezone.make_aware(run_after)
        self.client.enqueue(self.redis_queue(task), payload, task_id=result.id, process_at=run_after)
        object.__setattr__(result, "enqueued_at", timezone.now())  # as Django's own backends do
        task_enqueued.send(type(self), task_result=result)

    def _send_after_commit(self, result: TaskResult[..., Any], payload: Payload) -> None:
        try:
            self._send(result, payload)
        except api.ClientError:
            log.exception("Task id=%s path=%s is lost: it was not enqueued", result.id, result.task.module_path)


def _read_result(found: api.Task, alias: str) -> TaskResult[..., Any]:
    """Return Django's result for a task. Raise InvalidTask."""
    status = _STATUSES.get(found.state, TaskResultStatus.READY)
    last = found.attempts[-1] if found.attempts else None
    finished_at = found.completed_at or (last.ended_at if last else None)
    payload = found.payload
    result: TaskResult[..., Any] = TaskResult(
        task=read_task(payload),
        id=found.id,
        status=status,
        enqueued_at=found.enqueued_at,
        started_at=found.started_at,
        finished_at=finished_at if found.has_ended else None,
        last_attempted_at=found.started_at,
        args=payload.get("args") or [],
        kwargs=payload.get("kwargs") or {},
        backend=alias,
        errors=_read_errors(found),
        worker_ids=[attempt.worker_id for attempt in found.attempts],
    )
    object.__setattr__(result, "_return_value", found.result)
    return result


def _read_errors(found: api.Task) -> list[TaskError]:
    failed = [attempt for attempt in found.attempts if attempt.error or attempt.error_class]
    errors = [_make_error(each.error_class, each.error) for each in failed]
    if found.error and found.state != "completed":
        # Attempts have excerpts, the task has all of its last error. A cancelled one has an error without an attempt.
        kept = len(errors) - 1 if failed and failed[-1].error_class == found.error_class else len(errors)
        errors[kept:] = [_make_error(found.error_class, found.error)]
    return errors


def _make_error(error_class: str | None, error: str | None) -> TaskError:
    return TaskError(exception_class_path=error_class or UNKNOWN_ERROR, traceback=error or "")
