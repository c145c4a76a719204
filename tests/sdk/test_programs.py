"""Programs of the SDK as a worker sees them: their lines, their output, and how they end."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import runqy_python

from tests.sdk.conftest import ENVIRONMENT, Start

pytestmark = pytest.mark.slow

PUBLISHED = Path(runqy_python.__file__).parents[1]

ECHO = """
from runqy_sdk import run, task

@task
def echo(payload):
    return payload

run()
"""

BOTH_KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


@pytest.mark.parametrize("value", [None, 0, "Zoë\n\u2028", [1.5, {"a": [True]}], {"n": 2**53 + 1}, "x" * 5_000_000])
def test_a_function_gets_the_payload_and_returns_the_result(start: Start, value: Any) -> None:
    program = start(ECHO)

    response = program.run(value)

    assert response == {"task_id": "t1", "result": value, "error": None, "retry": False}
    assert program.end() == 0


def test_tasks_that_were_sent_ahead_are_answered_in_order(start: Start) -> None:
    program = start(ECHO)

    for number in range(50):
        program.send(f"t{number}", number)

    assert [program.read()["result"] for _ in range(50)] == list(range(50))


@BOTH_KINDS
def test_the_context_knows_the_task(start: Start, kind: str) -> None:
    program = start(f"""
from runqy_sdk import Context, load, run, task

@load
def load_model():
    return "model"

@task
{kind} show(payload, info: Context, model):
    return [payload, info.task_id, info.queue, info.attempt, info.max_retry, info.deadline, info.request_id,
        info.traceparent, info.loaded, model, info.cancelled, 0 < info.remaining]

run()
""")

    response = program.run(1, attempt=2, deadline=4e9, request_id="r1", traceparent="00-a")

    assert response["result"] == [1, "t1", "mail", 2, 3, 4e9, "r1", "00-a", "model", "model", False, True]


@BOTH_KINDS
def test_failures_say_how_the_task_ends(start: Start, kind: str) -> None:
    program = start(f"""
from runqy_sdk import Fail, Retry, run, task

@task(retry_on=(ConnectionError, TimeoutError))
{kind} fail(payload):
    if payload == "retry":
        raise Retry("busy", delay=7.5)
    try:
        if payload in ("from", "while"):
            raise BrokenPipeError("421 too many")
    except OSError as error:
        if payload == "from":
            raise Retry("the mail server is busy") from error
        raise Fail("no mail server")
    if payload == "fail":
        raise Fail("no such account")
    raise {{"refused": ConnectionRefusedError, "bug": KeyError}}[payload]("upstream")

run()
""")

    def ending(payload: str) -> tuple[str, bool, float | None]:
        response = program.run(payload)
        assert response["result"] is None
        classes[payload] = response["error_class"]
        return response["error"], response["retry"], response.get("retry_delay_s")

    classes: dict[str, str] = {}
    retried, *others = ending("retry")
    assert others == [True, 7.5]
    assert 'raise Retry("busy", delay=7.5)' in retried
    assert retried.endswith("\nrunqy_sdk.errors.Retry: busy\n")
    assert ending("fail") == ("no such account", False, None)
    caused, *others = ending("from")
    assert others == [True, None]
    assert 'raise BrokenPipeError("421 too many")' in caused
    assert caused.endswith("\nBrokenPipeError: 421 too many (Retry: the mail server is busy)\n")
    assert ending("while")[0].endswith("\nBrokenPipeError: 421 too many (Fail: no mail server)\n")
    assert classes == {
        "retry": "runqy_sdk.errors.Retry",
        "fail": "runqy_sdk.errors.Fail",
        "from": "builtins.BrokenPipeError",
        "while": "builtins.BrokenPipeError",
    }
    refused, bug = ending("refused"), ending("bug")
    assert refused[1:] == (True, None)
    assert bug[1:] == (False, None)
    assert bug[0].startswith("Traceback (most recent call last):\n")
    assert bug[0].endswith("KeyError: 'upstream'\n")
    assert "runqy_sdk" not in bug[0]


def test_what_a_program_and_its_children_print_is_no_response(start: Start) -> None:
    program = start("""
import logging, os, subprocess, sys
from runqy_sdk import run, task

@task
def talk(payload, ctx):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["echo", "from a child"])
    logging.warning("logged")
    ctx.log.info("about %s", payload)
    return subprocess.run(["cat"], capture_output=True, text=True).stdout  # reads standard input to its end

run()
""")

    program.send("t1", "Ada")
    program.send("t2", "Bob")

    assert [program.read()["result"] for _ in range(2)] == ["", ""]
    for text in (
        "printed\n",
        "written\n",
        "from a child\n",
        "WARNING logged\n",
        "INFO about Ada\n",
        "INFO about Bob\n",
    ):
        assert text in program.printed


def test_progress_is_reported_before_the_response(start: Start) -> None:
    program = start("""
from runqy_sdk import run, task

@task
def work(payload, ctx):
    ctx.progress(1, 4, "x" * 600)
    ctx.progress(0.5)
    ctx.progress(-1)

run()
""")

    program.send("t1")

    assert program.read() == {"task_id": "t1", "progress": {"current": 1, "total": 4, "message": "x" * 500}}
    assert program.read() == {"task_id": "t1", "progress": {"current": 0.5}}
    assert program.read()["error"].endswith("ValueError: current: -1 is not a number from 0\n")


@pytest.mark.parametrize(
    ("kind", "wait"),
    [
        ("def", "while not ctx.cancelled: time.sleep(0.01)"),
        ("def", "while True: ctx.check(); time.sleep(0.01)"),
        ("async def", "await asyncio.sleep(600)"),
    ],
)
def test_a_cancelled_task_ends_and_the_process_stays_warm(start: Start, kind: str, wait: str) -> None:
    program = start(f"""
import asyncio, time
from runqy_sdk import run, task

@task
{kind} wait(payload, ctx):
    if payload == "wait":
        ctx.progress(0)
        {wait}
        ctx.check()
    return payload

run()
""")
    program.send("t1", "wait")
    program.read()

    program.write({"control": "cancel", "task_id": "another"})
    program.write({"control": "cancel", "task_id": "t1"})

    assert program.read() == {"task_id": "t1", "result": None, "error": "the task was cancelled", "retry": False}
    assert program.run("next")["result"] == "next"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("def words(payload):\n    yield 'a'\n    yield 'b'", "ab"),
        ("def words(payload):\n    yield 1\n    yield 'b'", [1, "b"]),
        ("def words(payload):\n    yield 1\n    return 'end'", "end"),
        ("async def words(payload):\n    yield 'a'\n    yield 'b'", "ab"),
        ("async def words(payload, ctx):\n    ctx.chunk('a')\n    ctx.chunk('b')", "ab"),
    ],
)
def test_the_parts_of_a_result_are_joined(start: Start, body: str, result: Any) -> None:
    program = start(f"from runqy_sdk import run, task\n@task\n{body}\nrun()\n")

    assert program.run()["result"] == result


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_asynchronous_loader_serves_both_kinds(start: Start, kind: str) -> None:
    program = start(f"""
from runqy_sdk import load, run, task

@load
async def load_model():
    return "model"

@task
{kind} show(payload, model):
    return model

run()
""")

    assert program.run()["result"] == "model"


@BOTH_KINDS
def test_a_program_that_cannot_load_says_why(start: Start, kind: str) -> None:
    program = start(
        f"""
from runqy_sdk import load, run, task

@load
def load_model():
    raise OSError("no weights")

@task
{kind} show(payload):
    pass

run()
""",
        is_ready=False,
    )

    message = program.read()

    assert message["status"] == "error"
    assert message["error"].startswith("@load failed: Traceback")
    assert message["error"].endswith("OSError: no weights\n")
    assert program.process.wait(60) == 1


@BOTH_KINDS
def test_the_first_signal_lets_the_task_end_the_second_does_not(start: Start, kind: str) -> None:
    source = f"""
import asyncio, time
from runqy_sdk import run, task

@task
{kind} wait(payload, ctx):
    ctx.progress(0)
    for _ in range(payload):  # a signal just before one long sleep would not interrupt it
        {"await asyncio" if kind.startswith("async") else "time"}.sleep(0.01)
    return "done"

run()
"""
    idle, busy, stuck = start(source), start(source), start(source)
    busy.send("t1", 50)
    busy.send("t2", 50)
    stuck.send("t1", 100_000)
    for program in (busy, stuck):
        program.read()

    for program in (idle, busy, stuck):
        program.process.send_signal(signal.SIGTERM)
    stuck.process.send_signal(signal.SIGINT)

    assert idle.process.wait(60) == 0
    assert busy.read()["result"] == "done"
    assert busy.process.wait(60) == 0
    assert busy.process.stdout.read() == ""  # the second task goes back to its queue
    assert stuck.process.wait(60) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.parametrize(("version", "member"), [(1, "error"), (2, "protocol_error")])
def test_a_line_that_cannot_be_read_is_answered(start: Start, version: int, member: str) -> None:
    program = start(ECHO, version=version)

    program.process.stdin.write("{broken\n")
    program.process.stdin.flush()

    response = program.read()
    assert response.get("task_id") == (None if version == 2 else "unknown")
    assert response[member].startswith("The line is not JSON: ")
    assert program.run(1)["result"] == 1


def test_a_number_that_python_does_not_read_fails_its_task(start: Start) -> None:
    program = start(ECHO, version=2)

    program.process.stdin.write('{"task_id":"t1","payload":{"n":[%s]}}\n' % ("1" * 5000))
    program.process.stdin.flush()

    response = program.read()
    assert response["task_id"] == "t1"
    assert response["error"].startswith("payload_invalid: Exceeds the limit")
    assert program.run(1)["result"] == 1


def test_a_program_without_a_worker_ends_quietly(start: Start) -> None:
    program = start(ECHO)

    program.process.stdout.close()
    program.send("t1")

    assert program.process.wait(60) == 1
    assert program.printed == ""


def test_what_arrives_while_a_task_runs_is_kept_in_order(start: Start) -> None:
    program = start("""
import time
from runqy_sdk import run, task

@task
def wait(payload, ctx):
    if payload == "wait":
        ctx.progress(0)
        while not ctx.cancelled:
            time.sleep(0.01)
    return payload

run()
""")
    program.send("t0", "wait")
    program.read()

    program.send("t1", "x" * 3_000_000)
    program.write({"control": "cancel", "task_id": "t1"})  # only the task that runs can be cancelled
    program.send("t2", "control")
    program.write({"control": "cancel", "task_id": "t0"})
    program.send("t3", "last")

    responses = [program.read() for _ in range(4)]
    assert [response["task_id"] for response in responses] == ["t0", "t1", "t2", "t3"]
    assert [response["result"] for response in responses] == ["wait", "x" * 3_000_000, "control", "last"]
    assert program.end() == 0


@BOTH_KINDS
def test_a_task_may_be_cancelled_in_the_moment_in_which_it_arrives(start: Start, kind: str) -> None:
    program = start(f"""
import asyncio, time
from runqy_sdk import run, task

@task
{kind} wait(payload, ctx):
    while not payload and not ctx.cancelled:
        {"await asyncio" if kind.startswith("async") else "time"}.sleep(0.01)
    ctx.check()
    return payload

run()
""")
    task = json.dumps({"task_id": "t1", "payload": 0})

    program.process.stdin.write(task + '\n{"control": "cancel", "task_id": "t1"}\n')
    program.process.stdin.flush()

    assert program.read()["error"] == "the task was cancelled"
    assert program.run(1)["result"] == 1


@BOTH_KINDS
def test_a_process_that_a_handler_forks_ends_on_a_signal(start: Start, kind: str) -> None:
    program = start(f"""
import multiprocessing, time
from runqy_sdk import run, task

def work(started):
    started.set()
    while True:
        time.sleep(0.01)

@task
{kind} spawn(payload):
    forking = multiprocessing.get_context("fork")
    started = forking.Event()
    process = forking.Process(target=work, args=(started,))
    process.start()
    started.wait()
    process.terminate()
    process.join()
    return process.exitcode

run()
""")

    assert [program.run()["result"] for _ in range(2)] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("package", ["runqy_python", "runqy_sdk"])
def test_plain_handlers_of_the_published_sdk_need_another_import_only(
    start: Start, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{ENVIRONMENT['PYTHONPATH']}:{PUBLISHED}")
    plain = start(
        f"""
from {package} import RetryableError, task, run

@task
def process(payload: dict) -> dict:
    if payload.get("busy"):
        raise RetryableError("try again")
    return {{"message": "Hello!", "received": payload}}

if __name__ == "__main__":
    run()
""",
        is_ready=False,
    )
    loading = start(
        f"""
from {package} import task, load, run

@load
def setup():
    return {{"model": str.upper}}

@task
def process(payload: dict, ctx: dict) -> dict:
    return {{"prediction": ctx["model"](payload["input"])}}

if __name__ == "__main__":
    run()
""",
        is_ready=False,
    )
    once = start(
        f"""
from {package} import task, run_once

@task
def process(payload: dict) -> dict:
    return {{"result": payload["x"] * 2}}

if __name__ == "__main__":
    run_once()
""",
        is_ready=False,
    )

    assert [program.read()["status"] for program in (plain, loading, once)] == ["ready"] * 3
    assert plain.run({"a": 1})["result"] == {"message": "Hello!", "received": {"a": 1}}
    busy = plain.run({"busy": True})
    assert (busy["error"].strip().endswith("try again"), busy["retry"]) == (True, True)
    assert loading.run({"input": "a"})["result"] == {"prediction": "A"}
    assert once.run({"x": 4})["result"] == {"result": 8}
    assert once.end() == 0


def test_a_task_that_the_handler_cancelled_itself_is_an_error(start: Start) -> None:
    program = start("""
import asyncio
from runqy_sdk import run, task

@task
async def work(payload):
    part = asyncio.create_task(asyncio.sleep(600))
    part.cancel()
    await part

run()
""")

    assert program.run()["error"].endswith("asyncio.exceptions.CancelledError\n")
