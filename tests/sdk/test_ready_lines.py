"""What a program tells the worker when it is ready."""

import json

import pytest

from tests.sdk.conftest import Start

BATCH = "@batch(max_size=16, max_wait_ms=20)"


@pytest.mark.parametrize(
    ("mark", "kind", "run"), [("@task", "def", "run()"), (BATCH, "async def", "run(concurrency=32)")]
)
def test_a_worker_of_the_first_version_gets_the_line_of_the_first_version(
    start: Start, mark: str, kind: str, run: str
) -> None:
    program = start(f"from runqy_sdk import *\n{mark}\n{kind} work(payload): pass\n{run}\n", is_ready=False)

    assert program.read_line() == '{"status": "ready", "accepts": ["cancel"]}\n'


@pytest.mark.parametrize(
    ("mark", "kind", "run", "line"),
    [
        ("@task", "def", "run()", {"accepts": ["cancel", "stream"], "concurrency": 1}),
        ("@task", "async def", "run()", {"accepts": ["cancel", "stream"], "concurrency": 1}),
        (
            "@task",
            "async def",
            "run(concurrency=32)",
            {"accepts": ["cancel", "concurrent", "stream"], "concurrency": 32},
        ),
        (
            BATCH,
            "def",
            "run()",
            {
                "accepts": ["cancel", "stream", "batch"],
                "concurrency": 1,
                "batch": {"max_size": 16, "max_wait_ms": 20},
            },
        ),
    ],
)
def test_a_worker_of_the_second_version_is_told_what_the_program_can_do(
    start: Start, mark: str, kind: str, run: str, line: dict
) -> None:
    program = start(f"from runqy_sdk import *\n{mark}\n{kind} work(payload): pass\n{run}\n", is_ready=False, version=2)

    assert json.loads(program.read_line()) == {"status": "ready"} | line


@pytest.mark.parametrize("concurrency", ["0", "257", "1.5", "True"])
def test_an_impossible_concurrency_is_refused(start: Start, concurrency: str) -> None:
    source = f"from runqy_sdk import *\n@task\ndef work(payload): pass\nrun(concurrency={concurrency})\n"

    program = start(source, is_ready=False, version=2)

    assert program.process.wait(60) == 1
    assert f"ValueError: concurrency: {concurrency} is not a whole number from 1 to 256" in program.printed
