"""`python -m runqy_sdk run main.py`: a handler without server, worker or Redis."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.sdk.conftest import ENVIRONMENT, PYTHON

HANDLER = """
from helper import GREETING
from runqy_sdk import Retry, load, run, task

@load
async def load_greeting():
    return GREETING

@task
{kind} greet(payload, ctx, greeting):
    ctx.progress(1, 2, "half")
    ctx.log.info("greeting %s", payload["name"])
    print("printed")
    if payload["name"] == "later":
        raise Retry("busy")
    yield greeting
    yield " " + payload["name"]

{run}
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "runqy_sdk", "run", *words]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/helper.py").write_text("GREETING = 'Hello'\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("end", ["run()", "if __name__ == '__main__':\n    run()", ""])
def test_the_result_is_printed_and_the_rest_on_standard_error(folder: Path, kind: str, end: str) -> None:
    (folder / "code/main.py").write_text(HANDLER.format(kind=kind, run=end))
    (folder / "payload.json").write_text('{"name": "Ada"}')

    done = run(folder, "code/main.py", "--payload", "@payload.json")

    assert done.returncode == 0, done.stderr
    assert done.stdout == 'printed\n"Hello Ada"\n'
    assert done.stderr == "progress: 1 of 2 half\nINFO greeting Ada\nHello Ada"


@pytest.mark.parametrize(("attempt", "ending"), [("1", "it would be retried"), ("4", "archived")])
def test_a_failure_says_what_a_worker_would_do(folder: Path, attempt: str, ending: str) -> None:
    (folder / "code/main.py").write_text(HANDLER.format(kind="def", run="run()"))

    done = run(folder, "code/main.py", "--payload", '{"name": "later"}', "--attempt", attempt)

    assert done.returncode == 1
    assert done.stderr.endswith(f"busy\n\nThe task failed: {ending}.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.py"], "there is no file missing.py"),
        (["main.py", "--payload", "{broken"], "argument --payload: not JSON: "),
        (["main.py", "--payload", "@missing.json"], "argument --payload: there is no file missing.json"),
        (["main.py"], "No function is marked with @task or @batch."),
        (["task.py", "--payload", "1", "--payload", "2"], "Only a function that is marked with @batch takes more than"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(folder: Path, words: list[str], message: str) -> None:
    (folder / "main.py").write_text("")
    (folder / "task.py").write_text(ECHO)

    done = run(folder, *words)

    assert done.returncode != 0
    assert message in done.stderr


ECHO = "from runqy_sdk import run, task\n@task\ndef echo(payload): return payload\nrun()\n"
BATCH = """
from runqy_sdk import Context, Retry, batch, run

@batch(max_size=4, max_wait_ms=5)
{kind} greet(names: list[str], contexts: list[Context]):
    for name, ctx in zip(names, contexts):
        ctx.log.info("greeting %s", name)
        ctx.chunk({{"name": name}})
    return ["Hello " + name if name else Retry("busy") for name in names]

run(concurrency=2)
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_batch_is_run_on_several_payloads(folder: Path, kind: str) -> None:
    (folder / "main.py").write_text(BATCH.format(kind=kind))

    both = run(folder, "main.py", "--payload", '"Ada"', "--payload", '"Bob"')
    one = run(folder, "main.py", "--payload", '"Ada"')
    failed = run(folder, "main.py", "--payload", '"Ada"', "--payload", '""')

    assert json.loads(both.stdout) == ["Hello Ada", "Hello Bob"]
    assert both.stderr == 'INFO greeting Ada\n{"name": "Ada"}\nINFO greeting Bob\n{"name": "Bob"}\n'
    assert json.loads(one.stdout) == "Hello Ada"
    assert (failed.returncode, json.loads(failed.stdout)) == (1, ["Hello Ada", None])
    assert failed.stderr.endswith("busy\n\nThe task failed: it would be retried.\n")
