"""Cases of Django's documentation of tasks, and of runqy's page about them, on a real server and a real worker."""

import asyncio
import json
import logging
import os
import re
import subprocess
import threading
import time
import urllib.request
import uuid
from datetime import datetime, timedelta
from io import StringIO

import django
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone

django.setup()

from orders import tasks  # noqa: E402

from runqy_sdk import Context, TaskCancelled  # noqa: E402
from runqy_sdk.client import Client, ServerUnreachable, TaskFailed, api_errors  # noqa: E402
from runqy_sdk.django.execution import execute  # noqa: E402
from runqy_sdk.django.interface import (  # noqa: E402
    InvalidTask,
    InvalidTaskBackend,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
    task_enqueued,
)
from runqy_sdk.django.management.commands import runqy_check  # noqa: E402
from runqy_sdk.django.payloads import make_payload  # noqa: E402

try:
    from django.tasks import task
    from django.tasks.exceptions import TaskResultMismatch
except ImportError:
    from django_tasks import task
    from django_tasks.exceptions import TaskResultMismatch

BACKEND = settings.TASKS["default"]
OPTIONS = BACKEND["OPTIONS"]
ERROR = "orders.tasks.OrderInvalid: not at attempt {} (Retry: later)"
client = Client(OPTIONS["url"], OPTIONS["api_key"])


def finish(result):
    """Return the result once its task has ended."""
    client.wait(result.id, timeout=60)
    result.refresh()
    return result


def is_enqueued(result):
    try:
        return bool(client.get(result.id))
    except api_errors.TaskNotFound:
        return False


# Results


def test_enqueued_task_is_run_and_returns_its_value():
    result = tasks.add.enqueue(1, second=2)

    assert str(uuid.UUID(result.id)) == result.id
    assert (result.status, result.is_finished) == (TaskResultStatus.READY, False)
    assert (result.args, result.kwargs, result.backend) == ([1], {"second": 2}, "default")
    assert result.enqueued_at is not None
    with pytest.raises(ValueError, match="has not finished"):
        _ = result.return_value

    finish(result)

    assert (result.status, result.is_finished) == (TaskResultStatus.SUCCESSFUL, True)
    assert result.return_value == 3
    assert (result.worker_ids, result.attempts, result.errors) == (["w1"], 1, [])
    assert result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at


def test_get_result_returns_task_and_arguments_of_a_deferred_task():
    later = timezone.now() + timedelta(hours=1)
    enqueued = tasks.add.using(run_after=later, queue_name="emails").enqueue([1, {"a": None}], second="x")

    found = tasks.add.get_result(enqueued.id)

    assert found.task == enqueued.task
    assert (found.args, found.kwargs) == ([[1, {"a": None}]], {"second": "x"})
    assert found.status == TaskResultStatus.READY
    stored = client.get(found.id)
    assert stored.state == "scheduled"
    assert abs(stored.next_process_at - later) < timedelta(seconds=2)


def test_coroutines_and_the_asynchronous_methods():
    async def run():
        result = await tasks.greet.aenqueue("Ada")
        client.wait(result.id, timeout=60)
        await result.arefresh()
        return result, await tasks.greet.aget_result(result.id)

    result, again = asyncio.run(run())

    assert result.return_value == again.return_value == "Hello, Ada, attempt 1"
    assert again.task.queue_name == "emails"


def test_exception_archives_at_once_with_class_and_traceback():
    result = finish(tasks.fail.enqueue("no such order"))

    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 1)
    (error,) = result.errors
    assert error.exception_class is tasks.OrderInvalid
    assert "raise OrderInvalid(message)" in error.traceback
    assert "runqy_sdk" not in error.traceback
    assert error.traceback.strip().endswith("OrderInvalid: no such order")
    assert result.finished_at is not None
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_exit_and_results_that_are_not_json_fail_the_task():
    failed = [finish(each.enqueue()) for each in (tasks.stop, tasks.return_a_set)]

    assert [result.errors[0].exception_class for result in failed] == [SystemExit, TypeError]
    assert finish(tasks.return_bytes.enqueue()).return_value == "text"


def test_retry_of_the_sdk_runs_the_task_again():
    result = finish(tasks.ask_for_retry.enqueue(2))

    assert (result.return_value, result.worker_ids) == (3, ["w1"] * 3)
    assert [error.exception_class for error in result.errors] == [tasks.OrderInvalid] * 2


def test_task_that_waits_for_its_retry_is_ready():
    result = tasks.ask_for_retry.enqueue(1, delay=3600)
    while client.get(result.id).state != "retry":
        time.sleep(0.05)
    result.refresh()

    assert (result.status, result.finished_at) == (TaskResultStatus.READY, None)
    assert [error.traceback.splitlines()[-1] for error in result.errors] == [ERROR.format(1)]


def test_failed_task_has_the_errors_of_all_attempts():
    result = finish(tasks.ask_for_retry.using(queue_name="emails").enqueue(9))

    assert result.status == TaskResultStatus.FAILED
    assert [error.exception_class for error in result.errors] == [tasks.OrderInvalid] * 2
    assert [error.traceback.splitlines()[-1] for error in result.errors] == [ERROR.format(1), ERROR.format(2)]
    assert all("in ask_for_retry" in error.traceback for error in result.errors)


def test_running_task_has_its_worker():
    result = finish(tasks.look_up_itself.enqueue())

    assert result.return_value == ["RUNNING", ["w1"], False, True]


def test_context_and_one_setup_for_all_tasks():
    first, second = (finish(tasks.describe.enqueue(extra=extra)) for extra in ("a", "b"))

    assert first.return_value == {
        "id": first.id,
        "attempt": 1,
        "status": "RUNNING",
        "extra": "a",
        "pid": second.return_value["pid"],
    }


def test_connections_are_closed_between_tasks():
    uses = (tasks.use_database, tasks.use_database_async) * 2

    assert [finish(use.enqueue()).return_value for use in uses] == [True] * 4


def test_missing_deleted_and_foreign_tasks_have_no_result():
    result = finish(tasks.add.enqueue(1))
    url = f"{OPTIONS['url']}/api/cli/queues/default/tasks/{result.id}"
    headers = {"Authorization": f"Bearer {OPTIONS['api_key']}"}
    foreign = client.enqueue("default", {"n": 1}, delay=3600)

    with pytest.raises(TaskResultMismatch):
        tasks.fail.get_result(result.id)
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE", headers=headers)).close()

    for missing in (result.id, foreign.id, str(uuid.uuid4()), "no id", ""):
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result(missing)
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


def test_cancelled_coroutine_is_interrupted(monkeypatch):
    async def wait_for_ever():
        started.set()
        await asyncio.sleep(3600)

    started = threading.Event()
    wait_for_ever.__qualname__, wait_for_ever.__module__ = "wait_for_ever", "orders.tasks"
    monkeypatch.setattr(tasks, "wait_for_ever", task(wait_for_ever), raising=False)
    context = Context({"task_id": "t1"}, None, print, False)
    threading.Thread(target=lambda: started.wait() and context.cancelled.set()).start()

    with pytest.raises(TaskCancelled):
        execute(make_payload(tasks.wait_for_ever, [], {}), context)


# Validation


def test_backend_supports_everything():
    backend = task_backends["ranked"]

    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority
    assert backend.check() == []


@pytest.mark.parametrize(("argument", "error"), [(object(), TypeError), ({1}, TypeError), (float("nan"), ValueError)])
def test_arguments_that_are_not_json_raise_at_enqueue(argument, error):
    with transaction.atomic(), pytest.raises(error):
        tasks.add.enqueue(argument)


def test_invalid_tasks_raise():
    def nested():
        pass

    invalid = (
        lambda: tasks.add.using(queue_name="unknown"),
        lambda: tasks.add.using(priority=1),  # without sub-queues
        lambda: tasks.rank.using(priority=101),
        lambda: tasks.add.using(run_after=datetime(2030, 1, 1)),  # noqa: DTZ001 (naive)
        lambda: task(nested),
        lambda: task(takes_context=True)(tasks.add_as_function),
    )
    for declare in invalid:
        with pytest.raises(InvalidTask):
            declare()


def test_priority_chooses_the_sub_queue():
    queues = {}
    for priority in (100, 50, 49, 0, -100):
        result = tasks.rank.using(priority=priority).enqueue()
        queues[priority] = client.get(result.id).queue
        assert tasks.rank.get_result(result.id).task.priority == priority

    high, low = "ranked_high", "ranked_low"
    assert queues == {100: high, 50: high, 49: low, 0: low, -100: low}


@pytest.mark.parametrize("options", [{"enqueue_on_comit": True}, {"priorities": {"high": "50"}}])
def test_unknown_options_are_refused(options):
    with override_settings(TASKS={"default": BACKEND | {"OPTIONS": options}}), pytest.raises(InvalidTaskBackend):
        task_backends["default"].check()


def test_unknown_database_is_found_by_the_system_check():
    with override_settings(TASKS={"default": BACKEND | {"OPTIONS": {"using": "none"}}}):
        (message,) = task_backends["default"].check()

    assert "there is no database 'none'" in message.msg


def test_only_declared_tasks_are_run():
    def run(path):
        payload = make_payload(tasks.add, [1, 2], {}) | {"task": path}
        enqueued = client.enqueue("default", payload)
        with pytest.raises(TaskFailed) as raised:
            client.result(enqueued, timeout=60)
        return str(raised.value)

    assert "is no task" in run("orders.tasks.add_as_function")
    assert "is no task" in run("os.system")
    assert "INSTALLED_APPS" in run("side_effect.run")
    assert "cannot be imported" in run("orders.tasks.missing")
    assert finish(tasks.add.enqueue(1)).return_value == 1  # the worker goes on


# Transactions


def test_task_is_enqueued_by_the_commit():
    received = []

    def receive(task_result, **kwargs):
        received.append(task_result.id)

    task_enqueued.connect(receive)
    numbers = [1]
    with transaction.atomic():
        result = tasks.add.enqueue(numbers, second=[2])
        numbers.append("changed before the commit")
        assert not is_enqueued(result)
        assert (result.enqueued_at, received) == (None, [])

    assert finish(result).return_value == [1, 2]
    assert received == [result.id]


def test_rollback_enqueues_nothing():
    enqueued = []

    def fail_after_enqueueing():
        with transaction.atomic():
            enqueued.append(tasks.add.enqueue(1))
            raise tasks.OrderInvalid

    with pytest.raises(tasks.OrderInvalid):
        fail_after_enqueueing()

    assert [is_enqueued(result) for result in enqueued] == [False]


def test_manual_transactions_are_refused():
    connection.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="manual transaction"):
            tasks.add.enqueue(1)
    finally:
        connection.set_autocommit(True)


def test_options_choose_the_database_and_the_moment():
    with transaction.atomic():
        for backend in ("immediate", "other"):
            assert is_enqueued(tasks.add.using(backend=backend).enqueue(1))
    with transaction.atomic(using="other"):
        waiting = tasks.add.using(backend="other").enqueue(1)
        assert not is_enqueued(waiting)
    assert is_enqueued(waiting)


def test_unreachable_server_raises_and_after_a_commit_logs_the_id(caplog):
    lost = tasks.add.using(backend="unreachable")
    with pytest.raises(ServerUnreachable):
        lost.enqueue(1)

    with transaction.atomic():
        result = lost.enqueue(1)

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert result.id in record.getMessage()
    assert "orders.tasks.add" in record.getMessage()


def test_unreachable_server_is_asked_again_until_a_deadline():
    options = {"url": "http://127.0.0.1:9", "api_key": "k", "retry_for": 1.5}
    began_s = time.monotonic()

    with override_settings(TASKS={"default": BACKEND | {"OPTIONS": options}}), pytest.raises(ServerUnreachable):
        tasks.add.enqueue(1)

    assert time.monotonic() - began_s > 0.7  # the last pause would have ended later


# manage.py runqy_check


def check(*words, **changes):
    """Return what the command writes about a backend with other settings."""
    wanted = {"default": BACKEND | changes | {"OPTIONS": OPTIONS | changes.get("OPTIONS", {})}}
    out = StringIO()
    with override_settings(TASKS=wanted):
        try:
            call_command("runqy_check", *words, stdout=out, no_color=True)
        except CommandError as error:
            out.write(f"{error}\n")
    return out.getvalue()


def test_check_of_what_fits_notes_what_differs(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "Empty"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "elsewhere.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "elsewhere")

    lines = check().splitlines()

    assert lines[:3] == [
        f"ok      default: server and key: {OPTIONS['url']}",
        "ok      default: queue default",
        "ok      default: queue emails",
    ]
    assert re.match(r"ok      default: deployment of default: django [\d.]+, settings settings", lines[3])
    label, folder = "note    default: deployment of default, emails: the worker", os.environ["TEST_FOLDER"]
    assert lines[5].startswith(f"{label} runs commit 555555555555, and HEAD is ")
    assert lines[6:] == [
        f"{label}'s database is sqlite {folder}/worker/default.sqlite3, and sqlite {folder}/default.sqlite3 here",
        f"{label}'s database has unapplied migrations: orders.0001_initial",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"OPTIONS": {"url": "http://127.0.0.1:9", "retry_for": 0}},
            "problem default: server: .* cannot be reached.*correct `url`",
        ),
        ({"OPTIONS": {"api_key": "wrong"}}, "ok      default: server: .*\nproblem default: key: .*create_api_key"),
        ({"QUEUES": ["unknown"]}, "problem default: queue unknown: No queue 'unknown'.*correct QUEUES"),
        (
            {"QUEUES": ["ranked"], "OPTIONS": {"priorities": {"middle": 0}}},
            "problem default: queue ranked.middle: .*correct QUEUES and `priorities`",
        ),
        ({"QUEUES": ["foreign"]}, "problem default: deployment of foreign: another program.*startup_cmd"),
        ({"QUEUES": ["strict"]}, "problem default: queue strict: .*Remove `input` from the queue"),
    ],
)
def test_check_says_what_to_do(changes, text):
    written = check(**changes)

    assert re.search(text, written)
    assert written.endswith("\n1 problem.\n")


REFUSAL = "`runqy worker list` shows why, to a key of the role viewer or admin."


def test_check_ends_once_no_worker_can_answer(monkeypatch):
    monkeypatch.setattr(runqy_check, "_STANDSTILL_S", 6.0)

    written = check("--timeout", "100000", QUEUES=["broken"])

    assert f"deployment of broken: no response: the code of all its workers does not start. {REFUSAL}\n" in written
    assert count_tasks("broken") == 0


def test_check_says_why_no_worker_answers_and_leaves_no_task():
    admin = {"api_key": os.environ["TEST_ADMIN_KEY"]}
    silence = "problem default: deployment of {}: no response: {}\n"

    written = check("--timeout", "0.1", QUEUES=["broken", "unserved"], OPTIONS=admin)
    hidden = check("--timeout", "0.1", QUEUES=["unserved"])

    assert silence.format("broken", "worker w2 is start_failed: requires Python>=3.12") in written
    assert silence.format("unserved", "it has no worker.") in written
    assert f"{REFUSAL}\n" in hidden
    assert [count_tasks(queue) for queue in ("broken", "unserved", "default")] == [0, 0, 0]


def test_check_without_a_server_names_the_settings(monkeypatch, tmp_path):
    for name in ("RUNQY_SERVER_URL", "RUNQY_SERVER", "RUNQY_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    written = check(OPTIONS={"url": None})

    assert "problem default: server: no server: " in written
    assert "Set RUNQY_SERVER_URL and RUNQY_API_KEY, or `url` and `api_key` of OPTIONS.\n" in written


def count_tasks(queue):
    """Return the number of a queue's pending and archived tasks."""
    headers, count = {"Authorization": f"Bearer {OPTIONS['api_key']}"}, 0
    for state in ("pending", "archived"):
        request = urllib.request.Request(
            f"{OPTIONS['url']}/api/cli/queues/{queue}/tasks?state={state}", headers=headers
        )
        with urllib.request.urlopen(request) as response:
            count += json.load(response)["count"] if queue != "default" or state == "pending" else 0
    return count
