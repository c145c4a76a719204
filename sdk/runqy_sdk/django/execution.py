"""Run a task of Django on a worker."""

from __future__ import annotations

import asyncio
import os
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync
from django.db import close_old_connections, reset_queries
from django.utils import timezone

from runqy_sdk import Context, Fail, Retry, TaskCancelled
from runqy_sdk.calls import describe_failure
from runqy_sdk.django.deployment import describe_deployment
from runqy_sdk.django.interface import (
    InvalidTask,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from runqy_sdk.django.payloads import read_task
from runqy_sdk.protocol import class_path

CHECK = {"check": "runqy_sdk.django"}
"""The payload with which `manage.py runqy_check` asks what a queue runs."""


def execute(payload: Any, ctx: Context) -> Any:
    """Run the task of a payload and return its result as JSON's types. Raise what it raises."""
    try:
        task = None if payload == CHECK else read_task(payload)
    except InvalidTask as error:
        raise Fail(str(error)) from None
    # As Django does for each request.
    reset_queries()
    close_old_connections()
    try:
        return describe_deployment() if task is None else _run(task, payload, ctx)
    finally:
        close_old_connections()


def _run(task: Task[..., Any], payload: Any, ctx: Context) -> Any:
    now = timezone.now()
    backend = task.get_backend()
    result: TaskResult[..., Any] = TaskResult(
        task=task,
        id=ctx.task_id,
        status=TaskResultStatus.RUNNING,
        enqueued_at=None,
        started_at=now,
        finished_at=None,
        last_attempted_at=now,
        args=payload["args"],
        kwargs=payload["kwargs"],
        backend=task.backend,
        errors=[],
        # Their number is the attempt. Only the server knows the workers of earlier ones.
        worker_ids=[*[""] * (ctx.attempt - 1), os.environ.get("RUNQY_WORKER_ID", "")],
    )
    task_started.send(type(backend), task_result=result)
    try:
        value = normalize_json(_call(task, result, ctx))
    except (Exception, SystemExit) as error:
        if not isinstance(error, Retry) or ctx.attempt > ctx.max_retry:
            kind, text = describe_failure(error)
            result.errors.append(TaskError(exception_class_path=class_path(kind), traceback=text))
            _finish(result, TaskResultStatus.FAILED)
            task_finished.send(type(backend), task_result=result)
        raise
    object.__setattr__(result, "_return_value", value)
    _finish(result, TaskResultStatus.SUCCESSFUL)
    task_finished.send(type(backend), task_result=result)
    return value


def _finish(result: TaskResult[..., Any], status: TaskResultStatus) -> None:
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())


def _call(task: Task[..., Any], result: TaskResult[..., Any], ctx: Context) -> Any:
    args = [TaskContext(task_result=result), *result.args] if task.takes_context else result.args
    if iscoroutinefunction(task.func):
        return async_to_sync(_call_async)(task, args, result.kwargs, ctx)
    return task.call(*args, **result.kwargs)


async def _call_async(task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], ctx: Context) -> Any:
    """Run a coroutine, and interrupt it when its task is cancelled. Raise what it raises, and TaskCancelled."""
    running = asyncio.ensure_future(task.acall(*args, **kwargs))
    watching = asyncio.ensure_future(_wait_for(ctx))
    await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
    running.cancel()  # no effect on one that has ended
    watching.cancel()
    try:
        return await running
    except asyncio.CancelledError:
        raise TaskCancelled("the task was cancelled") from None


async def _wait_for(ctx: Context) -> None:
    await ctx.cancelled
