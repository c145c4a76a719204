"""`runqy task run`, `cancel`, `archive` and `delete` against the real application: by ids and by filter."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import redis as redis_py
from typer.testing import Result

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.cli import prompts, task_actions
from runqy.cli.errors import ExitCode
from tasks.bulk_runner import run_bulk_actions
from tasks.models import BulkAction
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.runs import insert_runs, make_failure
from tests.support.tasks import listed, put
from tests.tasks.task_helpers import put_in

Task = Callable[..., Result]


@pytest.fixture(autouse=True)
def _has_queues(application: httpx2.WSGITransport) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    save_queue(spec=spec("image", "high:10", "low:3"), source=QueueSource.API)


@pytest.fixture
def task(run: Callable[..., Result]) -> Task:
    """Return a function that runs `runqy task` as an administrator."""
    return lambda *arguments, **options: run("task", *arguments, "-k", ADMIN_KEY, **options)


@pytest.fixture
def maintenance(single_broker: Broker, replace_sleep: Callable[..., None]) -> None:
    """Apply bulk actions whenever the command waits for them."""
    replace_sleep(task_actions, lambda _: run_bulk_actions(single_broker))


def outcome(result: Result) -> tuple[int, str]:
    return result.exit_code, result.stdout


def test_ids_are_enough_and_their_queue_may_be_named(task: Task, single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", "t3", queue="image_high")

    assert outcome(task("archive", "t1")) == (0, "t1: task archived\n")
    assert outcome(task("run", "t1")) == (0, "t1: task pending\n")
    assert outcome(task("delete", "t2", "-q", "image_high")) == (0, "t2: task deleted\n")
    assert outcome(task("delete", "t1", "t3")) == (0, "t1: task deleted\nt3: task deleted\n")
    assert listed(single_broker, "image_high") == {}
    assert task("delete", "t2", "-q", "simple").exit_code == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("maintenance")
def test_all_tasks_that_match_are_counted_asked_about_and_changed(
    task: Task, single_broker: Broker, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(single_broker, "old1", "old2", "new", queue="image_high")
    put(single_broker, "other", queue="simple")
    for task_id in ("old1", "old2"):
        redis.hset(QueueKeys("image_high").task(task_id), "pending_since", single_broker.now_ns() - 7200 * 10**9)
    words = ["cancel", "--queue", "image", "--state", "pending", "--older-than", "90m"]

    counted = task(*words, "--dry-run")
    refused = task(*words)
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    answered_no = task(*words, input="n\n")
    answered_yes = task(*words, input="y\n")
    nothing_left = task(*words, input="y\n")

    assert outcome(counted) == (0, "2 tasks\n")
    assert (refused.exit_code, "--force" in refused.stderr) == (ExitCode.USAGE, True)
    assert answered_no.exit_code == ExitCode.FAILED
    assert "Cancel 2 pending tasks of image? [y/N]" in answered_no.stderr
    assert (answered_yes.exit_code, answered_yes.stdout.splitlines()[-1]) == (0, "2 tasks cancelled")
    assert outcome(nothing_left) == (0, "No task matches.\n")
    left = listed(single_broker, "image_high")
    assert ({*left["archived"]}, left["pending"]) == ({"old1", "old2"}, ["new"])
    assert listed(single_broker, "simple") == {"pending": ["other"]}
    assert BulkAction.objects.count() == 1


@pytest.mark.usefixtures("maintenance")
def test_ended_tasks_are_selected_by_their_error(task: Task, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    insert_runs(make_failure(task_id="t1"), make_failure("KeyError: 'x'", task_id="t2"), queue="simple")
    groups = json.loads(task("list", "simple", "--state", "archived", "-o", "json").stdout)
    assert len(groups) == 2

    done = task("run", "--outcome", "failed,lost", "--text", "KeyError", "--force", "-o", "json")

    assert (done.exit_code, json.loads(done.stdout)["done"]) == (0, 1)
    assert listed(single_broker, "simple") == {"archived": ["t1"], "pending": ["t2"]}


@pytest.mark.usefixtures("maintenance")
def test_bulk_actions_are_listed(task: Task, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    task("archive", "--state", "pending", "--queue", "simple", "--force")

    line = task("bulk", "list").stdout.rstrip("\n").split("\t")

    assert line[1:8] == ["archive", "finished", '{"state":"pending","queue":"simple"}', "1", "1", "0", "0"]
    assert outcome(task("bulk", "list", "-o", "name")) == (0, f"{line[0]}\n")


def test_ctrl_c_cancels_the_bulk_action(task: Task, single_broker: Broker, replace_sleep: Callable[..., None]) -> None:
    put(single_broker, "t1", queue="simple")

    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        sleep(seconds)  # of what other tests left running

    replace_sleep(task_actions, interrupt)

    result = task("delete", "--state", "pending", "--force")
    run_bulk_actions(single_broker)

    assert outcome(result) == (ExitCode.INTERRUPTED, "")
    assert result.stderr == "runqy: Interrupted. 0 tasks were deleted and stay so; the others were not.\n"
    assert listed(single_broker, "simple") == {"pending": ["t1"]}


def test_a_bulk_action_that_fails_is_an_error(
    task: Task, single_broker: Broker, replace_sleep: Callable[..., None]
) -> None:
    put(single_broker, "t1", queue="simple")

    def fail(_: float) -> None:
        BulkAction.objects.update(state=BulkAction.State.FAILED, error="The user may not do this.")

    replace_sleep(task_actions, fail)

    result = task("delete", "--state", "pending", "--force")

    assert (result.exit_code, result.stderr) == (ExitCode.FAILED, "runqy: The user may not do this.\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["run"], ExitCode.USAGE, "Give ids of tasks, or options that select them"),
        (["run", "t1", "--state", "retry"], ExitCode.USAGE, "not both"),
        (["run", "t1", "--dry-run"], ExitCode.USAGE, "not both"),
        (["cancel", "t1", "--queue", "simple"], ExitCode.USAGE, "not both"),
        (
            ["delete", "--state", "retry", "--older-than", "soon"],
            ExitCode.USAGE,
            "--older-than: 'soon' is not a duration",
        ),
        (["delete", "--older-than", "1h", "--to", "2026-01-01T00:00:00Z"], ExitCode.USAGE, "mutually exclusive"),
        (["cancel", "--queue", "simple"], ExitCode.FAILED, "action: Not possible for tasks that ended; give the state"),
        (["archive", "--state", "gone"], ExitCode.FAILED, "state: Must be one of "),
        (["delete", "--queue", "nope", "--state", "retry"], ExitCode.NOT_FOUND, "No queue 'nope'"),
        (["delete", "nope"], ExitCode.NOT_FOUND, "Task not found."),
    ],
)
def test_a_wrong_command_line_changes_nothing(
    task: Task, single_broker: Broker, words: list[str], status: ExitCode, message: str
) -> None:
    put(single_broker, "t1", queue="simple")

    result = task(*words)

    assert (result.exit_code, message in result.stderr) == (status, True), result.output
    assert listed(single_broker, "simple") == {"pending": ["t1"]}


def test_clients_may_not_request_bulk_actions(run: Callable[..., Any]) -> None:
    result = run("task", "cancel", "--state", "pending", "--force", "-k", CLIENT_KEY)

    assert result.exit_code == ExitCode.DENIED
