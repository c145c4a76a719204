"""Results in parts, and records of logging, as a worker of the second version gets them."""

from typing import Any

import pytest

from tests.sdk.conftest import Start

BOTH_KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


@pytest.mark.parametrize(
    ("body", "chunks", "result"),
    [
        ("def words(payload):\n    yield 'a'\n    yield 'Zoë'", ["a", "Zoë"], None),
        ("def words(payload):\n    yield {'n': 1}\n    return 'end'", [{"n": 1}], "end"),
        ("async def words(payload):\n    yield 'a'\n    yield None", ["a", None], None),
        ("async def words(payload, ctx):\n    ctx.chunk('a')\n    return 3", ["a"], 3),
        ("def words(payload, ctx):\n    ctx.chunk('a')", ["a"], None),
    ],
)
def test_parts_of_a_result_are_sent_at_once_and_joined_by_the_worker(
    start: Start, body: str, chunks: list[Any], result: Any
) -> None:
    program = start(f"from runqy_sdk import run, task\n@task\n{body}\nrun()\n", version=2)
    program.send("t1")

    lines = [program.read() for _ in range(len(chunks) + 1)]

    assert lines[:-1] == [{"task_id": "t1", "chunk": chunk} for chunk in chunks]
    assert lines[-1] == {"task_id": "t1", "result": result, "error": None, "retry": False}


@BOTH_KINDS
def test_a_stream_needs_no_memory_for_what_was_sent(start: Start, kind: str) -> None:
    program = start(
        f"""
import tracemalloc
from runqy_sdk import run, task

@task
{kind} many(payload):
    tracemalloc.start()
    for _ in range(500):
        yield "x" * 60_000
    yield tracemalloc.get_traced_memory()[1]

run()
""",
        version=2,
    )
    program.send("t1")

    *_, peak, _end = [program.read() for _ in range(502)]

    assert peak["chunk"] < 2_000_000  # of 30 MB


@BOTH_KINDS
@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        ("'x' * (64 * 1024 - 1)", "result_invalid: chunk: it has 65,537 bytes as JSON, and a chunk at most 65,536; "),
        ("{'scores': [{1}]}", "result_invalid: chunk.scores[0]: set is not JSON; "),
    ],
)
def test_a_chunk_that_is_too_large_or_not_json_fails_the_task(start: Start, kind: str, chunk: str, error: str) -> None:
    source = f"from runqy_sdk import run, task\n@task\n{kind} work(payload):\n    yield 'x' * (64 * 1024 - 2)\n    "
    program = start(f"{source}yield {chunk}\nrun()\n", version=2)
    program.send("t1")

    assert len(program.read()["chunk"]) == 64 * 1024 - 2
    response = program.read()
    assert (response["error"][: len(error)], response["retry"]) == (error, False)


CONFIGURED = "logging.basicConfig(level=logging.INFO, format='%(name)s: %(message)s'{stream})"


@BOTH_KINDS
@pytest.mark.parametrize(
    ("configuration", "own", "other"),
    [
        ("", "INFO about {}", "WARNING of {}\nin two lines"),
        (CONFIGURED.format(stream=""), "runqy_sdk.task: about {}", "library: of {}\nin two lines"),
        (CONFIGURED.format(stream=", stream=sys.stdout"), "runqy_sdk.task: about {}", "library: of {}\nin two lines"),
    ],
    ids=["not configured", "to standard error", "to standard output"],
)
def test_records_are_sent_as_those_of_their_task(
    start: Start, kind: str, configuration: str, own: str, other: str
) -> None:
    source = f"""
import logging, sys
from runqy_sdk import run, task

{configuration}

@task
{kind} talk(payload, ctx):
    ctx.log.info("about %s", payload)
    logging.getLogger("library").warning("of %s\\nin two lines", payload)
    print("printed by", payload)
    return payload

run(concurrency=4)
"""
    program = start(source, version=2)
    for name in ("Ada", "Bob"):
        program.send(name, name)

    lines = [program.read() for _ in range(6)]

    for name in ("Ada", "Bob"):
        own_lines = [line for line in lines if line["task_id"] == name]
        assert [line.get("log") for line in own_lines] == [own.format(name), other.format(name), None]
    assert sorted(program.printed.splitlines()) == ["printed by Ada", "printed by Bob"]


def test_records_of_threads_in_the_context_of_a_task_are_those_of_the_task(start: Start) -> None:
    program = start(
        """
import asyncio, contextvars, logging
from concurrent.futures import ThreadPoolExecutor
from runqy_sdk import run, task

pool = ThreadPoolExecutor(1)

@task
async def talk(payload):
    await asyncio.to_thread(logging.warning, "to_thread for %s", payload)
    pool.submit(logging.warning, "for nobody").result()
    pool.submit(contextvars.copy_context().run, logging.warning, "for %s", payload).result()

run(concurrency=2)
""",
        version=2,
    )

    for name in ("Ada", "Bob"):
        program.send(name, name)

    lines = [program.read() for _ in range(6)]
    for name in ("Ada", "Bob"):
        logs = [line.get("log") for line in lines if line["task_id"] == name]
        assert logs == [f"WARNING to_thread for {name}", f"WARNING for {name}", None]
    assert program.printed == "WARNING for nobody\n" * 2


def test_an_older_worker_gets_no_lines_but_responses(start: Start) -> None:
    program = start("""
import logging
from runqy_sdk import run, task

@task
def talk(payload, ctx):
    ctx.log.info("about %s", payload)
    yield "a"
    yield "b"

run()
""")

    assert program.run("Ada") == {"task_id": "t1", "result": "ab", "error": None, "retry": False}
    assert program.printed == "INFO about Ada\n"


def test_handlers_of_logging_that_write_elsewhere_are_left_alone(start: Start) -> None:
    program = start(
        """
import logging
from runqy_sdk import run, task

logging.basicConfig(filename="records.log", format="%(message)s")

@task
def talk(payload, ctx):
    ctx.log.warning("about %s", payload)
    return open("records.log").read()

run()
""",
        version=2,
    )

    assert program.run("Ada")["result"] == "about Ada\n"
