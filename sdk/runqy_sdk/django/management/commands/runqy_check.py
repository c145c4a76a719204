"""`manage.py runqy_check`: whether the server, the key, the queues and what they deploy fit the setting TASKS."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from typing import Any, cast
from urllib.parse import quote

import django
from django.core.management.base import BaseCommand, CommandError, CommandParser

from runqy_sdk import client as api
from runqy_sdk.client import api_errors
from runqy_sdk.client.base import Connection
from runqy_sdk.client.operations import Call, Retries, send
from runqy_sdk.client.settings import find_server
from runqy_sdk.client.sync import Requests
from runqy_sdk.django.backend import RunqyBackend
from runqy_sdk.django.deployment import describe_database, find_head
from runqy_sdk.django.execution import CHECK
from runqy_sdk.django.interface import task_backends

OK, NOTE, PROBLEM = "ok", "note", "problem"
Finding = tuple[str, str]
"""One of these, and what was found, or what to do."""

_CREATE_KEY = "create one with `runqy manage create_api_key NAME --role client`, and set it as `api_key`"
_LOOK_EVERY_S = 5.0
_STANDSTILL_S = 60.0
"""Workers may be installing a fix, which the server does not know, and what it knows of them is some seconds old."""
_STANDSTILLS = {"workers_failed": "the code of all its workers does not start.", "paused": "it is paused."}
"""Why no worker runs a task, by the reason that the server gives."""
_START_COMMAND = "Its startup_cmd must be `python -m runqy_sdk.django`."


class Command(BaseCommand):
    help = "Check that server, key, queues and deployments fit TASKS. Each queue runs a small task for it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for the queues (default: 30)")

    def handle(self, *args: Any, timeout: float, **options: Any) -> None:
        backends = [backend for backend in task_backends.all() if isinstance(backend, RunqyBackend)]
        if not backends:
            raise CommandError("TASKS has no runqy_sdk.django.RunqyBackend.")
        styles = {OK: self.style.SUCCESS, NOTE: self.style.WARNING, PROBLEM: self.style.ERROR}
        problems = 0
        for backend in backends:
            for kind, text in check_backend(backend, timeout):
                problems += kind == PROBLEM
                self.stdout.write(f"{styles[kind](f'{kind:7}')} {backend.alias}: {text}")
        if problems:
            raise CommandError(f"{problems} problem{'s' * (problems > 1)}.")


def check_backend(backend: RunqyBackend, timeout_s: float) -> Iterator[Finding]:
    """Yield what is found about the server, the key and each queue of a backend."""
    url, client = "", None
    try:
        url, _ = find_server(backend.options.get("url"), backend.options.get("api_key"), None)
        client = backend.client
        client.get(str(uuid.uuid4()))
    except api_errors.TaskNotFound:
        yield OK, f"server and key: {url}"
    except (api_errors.KeyRequired, api_errors.KeyInsufficient) as error:
        yield OK, f"server: {url}"
        yield PROBLEM, f"key: {error} Its role must be client: {_CREATE_KEY}."
        return
    except api.ConfigurationError as error:
        yield PROBLEM, f"server: {error}. Set RUNQY_SERVER_URL and RUNQY_API_KEY, or `url` and `api_key` of OPTIONS."
        return
    except api.ClientError as error:
        yield PROBLEM, f"server: {error}. Start the server, or correct `url` of OPTIONS."
        return
    assert client is not None  # noqa: S101 (else its task was not looked for)
    if not backend.queues:
        yield OK, "queues: QUEUES is empty, which allows all; name them to have them checked"
    names = [f".{name}" for name, _ in backend.priorities] or [""]
    waiting: list[tuple[str, api.Task]] = []
    try:
        for queue in (f"{queue}{name}" for queue in sorted(backend.queues) for name in names):
            try:
                # It expires some time later, so that it runs on servers with another clock.
                deadline = datetime.now(timezone.utc) + timedelta(seconds=timeout_s + 60)
                task = client.enqueue(queue, CHECK, deadline=deadline, max_retry=0, retention=60)
            except api_errors.PayloadInvalid as error:
                yield PROBLEM, f"queue {queue}: {error} Remove `input` from the queue: it refuses the tasks of Django."
            except api.ClientError as error:
                yield PROBLEM, f"queue {queue}: {error} Create it, or correct QUEUES and `priorities`."
            else:
                waiting.append((queue, task))
                yield OK, f"queue {queue}"
        yield from _read_responses(backend, client, waiting, timeout_s)
    finally:  # also if Ctrl-C ends the wait
        for _, task in waiting:
            _discard(backend, client, task)


def _read_responses(
    backend: RunqyBackend, client: api.Client, waiting: list[tuple[str, api.Task]], timeout_s: float
) -> Iterator[Finding]:
    """Yield what the queues' tasks found, and then the notes, each once. Tasks that ended leave `waiting`."""
    ends_s = time.monotonic() + timeout_s
    queues_by_note: dict[str, list[str]] = {}
    for queue, task in waiting.copy():
        try:
            found = _wait(backend, client, task, ends_s)
        except api.WaitTimeout:
            yield PROBLEM, f"deployment of {queue}: no response: {_explain_silence(backend, task)}"
            continue
        except api.ClientError as error:
            yield PROBLEM, f"deployment of {queue}: {error}"
            continue
        waiting.remove((queue, task))
        kind, text = _judge(found)
        yield kind, f"deployment of {queue}: {text}"
        for note in _compare(cast("dict[str, str]", found.result)) if kind == OK else ():
            queues_by_note.setdefault(note, []).append(queue)
    for note, queues in queues_by_note.items():
        yield NOTE, f"deployment of {', '.join(queues)}: {note}"


def _wait(backend: RunqyBackend, client: api.Client, task: api.Task, ends_s: float) -> api.Task:
    """Return a task that has ended. Raise WaitTimeout, also once the queue has stood still for a minute."""
    runs_s = time.monotonic()
    while True:
        left_s = max(0.0, ends_s - time.monotonic())
        try:
            return client.wait(task, timeout=min(left_s, _LOOK_EVERY_S))
        except api.WaitTimeout:
            now_s = time.monotonic()
            if not _find_standstill(backend, task):
                runs_s = now_s
            if left_s <= _LOOK_EVERY_S or now_s - runs_s >= _STANDSTILL_S:
                raise


def _find_standstill(backend: RunqyBackend, task: api.Task) -> str:
    """Return why a queue stands still, as keys of clients may see it; empty if it does not, or it is not known."""
    try:
        demand = _request(backend, "GET", f"/api/cli/queues/{quote(task.queue)}/demand")
    except api.ClientError:
        return ""
    return _STANDSTILLS.get(demand["reason"], "")


def _judge(task: api.Task) -> Finding:
    """Return whether a queue deploys a program for the tasks of this Django."""
    if task.state != "completed":
        reason = (task.error or "the task was archived").strip().splitlines()[-1]
        return PROBLEM, f"{reason.rstrip('.')}. {_START_COMMAND}"
    result = cast("object", task.result)
    if not isinstance(result, dict) or "django" not in result:
        return PROBLEM, f"another program. {_START_COMMAND}"
    versions = cast("dict[str, str]", result)
    here, there = (version.split(".")[:2] for version in (django.get_version(), versions["django"]))
    members = ("django", "settings", "commit", "worker")
    text = ", ".join(f"{name} {versions[name]}" for name in members if versions.get(name))
    if here != there:
        return PROBLEM, f"{text}; this process has django {django.get_version()}. Deploy the same version."
    return OK, text


def _compare(there: dict[str, str]) -> Iterator[str]:
    """Yield what a worker has that is unlike this process, but may be meant so."""
    commit, head = there.get("commit", ""), find_head()
    if head and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) and commit != head:
        yield f"the worker runs commit {commit[:12]}, and HEAD is {head[:12]} here: push it, and `runqy queue redeploy`"
    database = describe_database()
    if there.get("database", database) != database:
        yield f"the worker's database is {there['database'] or 'none'}, and {database or 'none'} here"
    if problem := there.get("database_problem"):
        yield f"the worker's database {problem}"


def _explain_silence(backend: RunqyBackend, task: api.Task) -> str:
    """Return why no worker runs a task, as those of its queue report it."""
    try:
        workers = _request(backend, "GET", "/api/cli/workers")["workers"]
    except api_errors.KeyInsufficient:
        reason = _find_standstill(backend, task) or " ".join(task.warnings) or "its workers are busy or do not start."
        return f"{reason} `runqy worker list` shows why, to a key of the role viewer or admin."
    except api.ClientError as error:
        return f"its workers are unknown: {error}"
    serving = [worker for worker in workers if task.queue in worker["redis_queues"]]
    unready = [worker for worker in serving if worker["state"] != "ready"]
    if not unready:
        return "its workers are busy, or it is paused." if serving else "it has no worker."
    return "; ".join(
        f"worker {each['worker_id']} is {each['state']}: {' '.join(each['reason'].split())}".rstrip(": ")
        for each in unready
    )


def _discard(backend: RunqyBackend, client: api.Client, task: api.Task) -> None:
    """Delete a task that nobody waits for any more: a queue with old tasks opens an alert."""
    try:
        _request(backend, "DELETE", f"/api/cli/queues/{quote(task.queue)}/tasks/{quote(task.id)}")
    except api.ClientError:  # it runs
        with suppress(api.ClientError):
            client.cancel(task)


def _request(backend: RunqyBackend, method: str, path: str) -> Any:
    """Return the response to a request that the client has no method for. Raise ClientError."""
    options = backend.options
    server = find_server(options.get("url"), options.get("api_key"), None)
    with closing(Requests(Connection(server, options.get("timeout", 5.0)))) as requests:
        return requests.run(send(Call(method, path), Retries(0)))
