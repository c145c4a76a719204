"""Handlers of runqy-sdk in a real worker."""

import json
import time
from pathlib import Path

import pytest

import runqy_sdk
from runqy.broker.broker import Broker
from runqy.broker.tasks.cancel import cancel
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, wait_for_state
from tests.workers.repositories import Repository

PACKAGE = Path(runqy_sdk.__file__).parent
FILES = {f"runqy_sdk/{path.name}": path.read_bytes() for path in PACKAGE.glob("*.py")}
HANDLER = """
import os, time
from dataclasses import dataclass
from runqy_sdk import Context, Retry, load, run, task

@dataclass
class Order:
    do: str
    name: str = ""

class Declined(Exception):
    pass

@load
def load_model():
    return os.getpid()

@task
{kind} work(order: Order, ctx: Context, pid):
    if order.do == "raise":
        raise Declined("no funds")
    if order.do == "retry":
        try:
            raise Declined("busy")
        except Declined as error:
            raise Retry("wait", delay=300) from error
    if order.do == "wait":
        ctx.progress(1, 2, "waiting")
        {wait}
    if order.do == "scores":
        return {{"scores": [0, 1, 2, {{3}}]}}
    ctx.log.info("greeting %s", order.name)
    return [order.name, ctx.attempt, ctx.max_retry, ctx.queue, round(ctx.remaining), pid]

run()
"""
WAITING = {
    "def": "while True: ctx.check(); time.sleep(0.01)",
    "async def": "import asyncio; await asyncio.sleep(600)",
}


@pytest.fixture(params=[("long_running", "def"), ("long_running", "async def"), ("one_shot", "def")])
def mode(request: pytest.FixtureRequest, server: FakeServer, repository: Repository, start_worker: StartWorker) -> str:
    """Start a worker for the handler, as a function or a coroutine, and return the queue's mode."""
    mode, kind = request.param
    repository.commit({**FILES, "main.py": HANDLER.format(kind=kind, wait=WAITING[kind])})
    server.response["deployment"]["git_url"] = repository.url
    server.response["queue"]["mode"] = mode
    start_worker()
    return str(mode)


def test_a_worker_runs_handlers_of_the_sdk(single_broker: Broker, mode: str) -> None:
    good = add_task(single_broker, {"do": "greet", "name": "Ada"}, timeout_s=90)
    invalid = add_task(single_broker, {"name": "Ada"})
    scores = add_task(single_broker, {"do": "scores"})
    retried = add_task(single_broker, {"do": "retry"})
    raised = add_task(single_broker, {"do": "raise"})
    waiting = add_task(single_broker, {"do": "wait"})

    *context, remaining_s, pid = json.loads(wait_for_state(single_broker, good, "completed").result or b"")
    assert context == ["Ada", 1, 3, "mail"]
    assert 0 < remaining_s <= 90
    error_of_payload = wait_for_state(single_broker, invalid, "archived").error
    error_of_result = wait_for_state(single_broker, scores, "archived").error
    assert error_of_payload == "payload_invalid: payload.do: this field is required"
    assert error_of_result.startswith("result_invalid: result.scores[3]: set is not JSON; ")
    failed = wait_for_state(single_broker, raised, "archived")
    assert (failed.error_class, failed.error.endswith("\nDeclined: no funds\n")) == ("__main__.Declined", True)
    assert [(each.attempt, each.worker_id) for each in failed.failures] == [(1, failed.worker_id)]
    record = wait_for_state(single_broker, retried, "retry")
    assert record.error_class == "__main__.Declined"
    assert record.error.endswith("\nDeclined: busy (Retry: wait)\n")
    assert time.time() + 200 < (record.score_s or 0) <= time.time() + 301

    wait_for_state(single_broker, waiting, "active")
    single_broker.run(cancel("mail", waiting, now_ns=single_broker.now_ns()))
    assert wait_for_state(single_broker, waiting, "archived").error == "canceled"
    after = add_task(single_broker, {"do": "greet", "name": "Bob"})
    next_pid = json.loads(wait_for_state(single_broker, after, "completed").result or b"")[-1]
    assert (next_pid == pid) == (mode == "long_running")
