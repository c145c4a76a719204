"""Tasks of the project."""

import os

from asgiref.sync import sync_to_async
from django.db import connection

from runqy_sdk import Retry
from runqy_sdk.context import current_context

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


class OrderInvalid(Exception):
    pass


@task
def add(first, second=0):
    return first + second


@task(queue_name="emails", takes_context=True)
async def greet(context, name):
    return f"Hello, {name}, attempt {context.attempt}"


@task
def fail(message):
    raise OrderInvalid(message)


@task
def stop():
    raise SystemExit("stopped")


@task
def return_a_set():
    return {1}


@task
def return_bytes():
    return b"text"


@task
def ask_for_retry(times, delay=0):
    attempt = current_context().attempt
    if attempt <= times:
        try:
            raise OrderInvalid(f"not at attempt {attempt}")
        except OrderInvalid as error:
            raise Retry("later", delay=delay) from error
    return attempt


@task(takes_context=True)
def look_up_itself(context):
    found = look_up_itself.get_result(context.task_result.id)
    return [found.status, found.worker_ids, found.started_at is None, found.finished_at is None]


@task(takes_context=True)
def describe(context, *, extra):
    result = context.task_result
    return {"id": result.id, "attempt": context.attempt, "status": result.status, "extra": extra, "pid": os.getpid()}


@task
def use_database():
    """Return whether the task found the connection of the task before it closed."""
    was_closed = connection.connection is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return was_closed


@task
async def use_database_async():
    return await sync_to_async(use_database.func)()


@task(backend="ranked", queue_name="ranked")
def rank():
    return None


def add_as_function(first, second):
    return first + second
