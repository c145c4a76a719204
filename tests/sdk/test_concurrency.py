"""Programs that run several tasks at a time."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from runqy_sdk.cancellation import Cancellation
from tests.sdk.conftest import ENVIRONMENT, PYTHON, Program, Start

COROUTINE = """
import asyncio
from runqy_sdk import run, task

events = {}

@task
async def work(payload, ctx):
    ctx.progress(0)
    if payload == "open":
        for event in events.values():
            event.set()
    else:
        events[payload] = asyncio.Event()
        await events[payload].wait()
    return payload

run(concurrency=4)
"""
FUNCTION = """
import threading
from runqy_sdk import run, task

events = {}

@task
def work(payload, ctx):
    event = events[payload] = threading.Event()
    ctx.progress(0)
    if payload == "open":
        for event in events.values():
            event.set()
    while not event.wait(0.01):
        ctx.check()
    return payload

run(concurrency=4)
"""
BOTH_KINDS = pytest.mark.parametrize("source", [COROUTINE, FUNCTION], ids=["coroutine", "function"])


def begin(program: Program, *names: str) -> None:
    for name in names:
        program.send(name, name)
        assert program.read() == {"task_id": name, "progress": {"current": 0}}


@BOTH_KINDS
def test_several_tasks_run_at_once_and_end_in_any_order(start: Start, source: str) -> None:
    program = start(source, version=2)
    begin(program, "a", "b", "c")

    program.send("open", "open")

    responses = program.read_responses(4)
    assert {name: response["result"] for name, response in responses.items()} == {n: n for n in ("a", "b", "c", "open")}
    assert program.end() == 0


@BOTH_KINDS
def test_a_cancelled_task_ends_beside_others_that_continue(start: Start, source: str) -> None:
    program = start(source, version=2)
    begin(program, "a", "b", "c")

    program.write({"control": "cancel", "task_id": "b"})
    program.write({"control": "cancel", "task_id": "unknown"})

    assert program.read() == {"task_id": "b", "result": None, "error": "the task was cancelled", "retry": False}
    program.send("open", "open")
    assert {name: response["error"] for name, response in program.read_responses(3).items()} == {
        "a": None,
        "c": None,
        "open": None,
    }


@BOTH_KINDS
def test_a_task_above_the_concurrency_waits_and_can_be_cancelled_meanwhile(start: Start, source: str) -> None:
    program = start(source, version=2)
    begin(program, "a", "b", "c", "d")

    program.send("e", "e")
    program.send("open", "open")
    program.write({"control": "cancel", "task_id": "e"})
    program.write({"control": "cancel", "task_id": "a"})

    assert program.read()["task_id"] == "e"
    responses = program.read_responses(5)
    assert responses.pop("a")["error"] == "the task was cancelled"
    assert {response["error"] for response in responses.values()} == {None}


@BOTH_KINDS
def test_the_first_signal_lets_all_running_tasks_end(start: Start, source: str) -> None:
    program = start(source, version=2)
    begin(program, "a", "b", "open")

    program.process.send_signal(signal.SIGTERM)

    assert program.read_responses(3).keys() == {"a", "b", "open"}
    assert program.process.wait(60) == 0


@BOTH_KINDS
def test_an_older_worker_gets_one_response_after_another(start: Start, source: str) -> None:
    program = start(source.replace("events[payload].wait()", "asyncio.sleep(0)").replace("event.wait(0.01)", "True"))

    for number in range(20):
        program.send(f"t{number}", number)

    lines = [program.read() for _ in range(40)]
    assert [(line["task_id"], "result" in line) for line in lines] == [
        (f"t{number}", is_response) for number in range(20) for is_response in (False, True)
    ]


def test_a_coroutine_can_wait_for_its_cancellation(start: Start) -> None:
    program = start(
        """
import asyncio
from runqy_sdk import run, task

async def tidy_up(ctx):
    await ctx.cancelled
    ctx.progress(1)

@task
async def work(payload, ctx):
    tidying = asyncio.create_task(tidy_up(ctx))
    ctx.progress(0)
    try:
        await asyncio.sleep(600)
    finally:
        await tidying

run()
""",
        version=2,
    )
    begin(program, "a")

    program.write({"control": "cancel", "task_id": "a"})

    assert program.read() == {"task_id": "a", "progress": {"current": 1}}
    assert program.read()["error"] == "the task was cancelled"


def test_a_coroutine_that_is_tried_by_hand_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(COROUTINE)
    tasks = tmp_path / "tasks.txt"
    tasks.write_text('{"task_id":"t1","payload":"open"}\n')

    for file, printed in ((Path(os.devnull), ""), (tasks, '"result":"open"')):
        with file.open() as stdin:
            done = subprocess.run(
                [PYTHON, "main.py"],
                stdin=stdin,
                cwd=tmp_path,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=True,
            )
        assert printed in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_sys_exit_fails_its_task_and_the_process_goes_on(start: Start, kind: str) -> None:
    program = start(
        f"""
import sys
from runqy_sdk import run, task

@task
{kind} work(payload):
    if payload == "exit":
        sys.exit(3)
    return payload

run(concurrency=2)
""",
        version=2,
    )

    program.send("t1", "exit")

    assert "SystemExit: 3" in program.read()["error"]
    assert program.run("on")["result"] == "on"


def test_a_loop_that_a_handler_has_closed_keeps_no_other_waiter_from_its_cancellation() -> None:
    cancelled = Cancellation()
    closed, loop = asyncio.new_event_loop(), asyncio.new_event_loop()
    left, waiter = cancelled.__await__(), cancelled.__await__()
    for each, waits in ((closed, left), (loop, waiter)):
        each.call_soon(next, waits)
        each.call_soon(each.stop)
        each.run_forever()
    closed.close()

    cancelled.set()
    loop.call_soon(loop.stop)
    loop.run_forever()

    with pytest.raises(StopIteration):
        next(waiter)
    left.close()
    loop.close()
