"""Children that run many tasks at once, of the SDK and in plain Python, in a real worker."""

import json
from pathlib import Path
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.tasks.cancel import cancel
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.outputs import chunks_of, output_of, wait_for_progress, wait_for_text
from tests.workers.processes import add_task, wait_for_state
from tests.workers.repositories import Repository
from tests.workers.test_own_sdk import FILES

EXAMPLE = Path(__file__).parents[2] / "examples/protocol/main.py"
# None of the tasks ends before all have begun.
TASKS = """
import asyncio, threading, time
from runqy_sdk import run, task

begun = set()

@task
{kind} work(payload, ctx):
    ctx.log.info("about %s", payload)
    ctx.progress(1)
    yield str(payload)
    begun.add(payload)
    while len(begun) < 4 or payload == "stuck":
        {sleep}
        ctx.check()
    yield "!"

run(concurrency=4)
"""
BATCHES = """
from runqy_sdk import Context, Retry, batch, run

@batch(max_size=4, max_wait_ms=60_000)
{kind} work(payloads: list[str], contexts: list[Context]):
    if "broken" in payloads:
        raise ValueError("cannot embed")
    for payload, ctx in zip(payloads, contexts):
        ctx.log.info("about %s", payload)
        ctx.chunk(payload)
        ctx.chunk("!")
    return [Retry("busy", delay=300) if payload == "busy" else None for payload in payloads]

run()
"""
KINDS = {"def": "time.sleep(0.01)", "async def": "await asyncio.sleep(0.01)"}


def deploy(
    server: FakeServer, repository: Repository, source: str | bytes, startup_cmd: str = "python main.py"
) -> None:
    repository.commit({**FILES, "main.py": source})
    server.response["deployment"] |= {"git_url": repository.url, "startup_cmd": startup_cmd}


def completed(broker: Broker, task_id: str) -> Any:
    return json.loads(wait_for_state(broker, task_id, "completed").result or b"null")


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_of_the_sdk_run_at_once_and_one_is_cancelled(
    server: FakeServer, repository: Repository, start_worker: StartWorker, single_broker: Broker, kind: str
) -> None:
    deploy(server, repository, TASKS.format(kind=kind, sleep=KINDS[kind]))
    names = ["a", "b", "c", "stuck"]
    ids = [add_task(single_broker, name, retention_s=3600) for name in names]

    start_worker()
    wait_for_progress(single_broker, ids[-1], 1)
    single_broker.run(cancel("mail", ids[-1], now_ns=single_broker.now_ns()))

    assert [completed(single_broker, task_id) for task_id in ids[:3]] == ["a!", "b!", "c!"]
    assert wait_for_state(single_broker, ids[-1], "archived").error == "canceled"
    assert chunks_of(single_broker, ids[0]) == ["a", "!"]
    assert [output_of(single_broker, task_id).text for task_id in ids] == [
        f"INFO about {name}\n".encode() for name in names
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_the_sdk_fails_for_the_member_at_fault_alone(
    server: FakeServer, repository: Repository, start_worker: StartWorker, single_broker: Broker, kind: str
) -> None:
    deploy(server, repository, BATCHES.format(kind=kind))
    good, broken, busy, other = [
        add_task(single_broker, name, retention_s=3600) for name in ("a", "broken", "busy", "b")
    ]

    start_worker()

    assert [completed(single_broker, task_id) for task_id in (good, other)] == ["a!", "b!"]
    record = wait_for_state(single_broker, broken, "archived")
    assert record.error.endswith("ValueError: cannot embed\n")
    assert wait_for_state(single_broker, busy, "retry").error == "busy"
    assert record.message.retried == 0
    assert b"INFO about a\n" in output_of(single_broker, good).text


def test_the_example_speaks_all_of_the_protocol(
    server: FakeServer, repository: Repository, start_worker: StartWorker, single_broker: Broker
) -> None:
    deploy(server, repository, EXAMPLE.read_bytes())
    add = lambda **payload: add_task(single_broker, payload, retention_s=3600)
    slow = add(log="waiting", chunks=["begun"], sleep_s=600)
    streamed, listed, retried = add(chunks=["a ", "b"]), add(chunks=[1, "b"]), add(error="away", retry=True)

    start_worker()

    assert [completed(single_broker, task_id) for task_id in (streamed, listed)] == ["a b", [1, "b"]]
    assert wait_for_state(single_broker, retried, "retry", "archived").error == "away"
    wait_for_text(single_broker, slow, b"waiting\n")
    single_broker.run(cancel("mail", slow, now_ns=single_broker.now_ns()))
    assert wait_for_state(single_broker, slow, "archived").error == "canceled"


def test_the_example_takes_batches(
    server: FakeServer, repository: Repository, start_worker: StartWorker, single_broker: Broker
) -> None:
    deploy(server, repository, EXAMPLE.read_bytes(), "python main.py batch")
    add = lambda **payload: add_task(single_broker, payload, retention_s=3600)
    tasks = [add(result=number, **({"breaks_batch": True} if number == 3 else {})) for number in range(20)]
    failed = add(error="no")

    start_worker()

    assert [completed(single_broker, task_id) for task_id in tasks] == list(range(20))
    assert wait_for_state(single_broker, failed, "archived").error == "no"
