"""`python -m runqy_sdk run main.py`: a handler without server, worker or Redis."""

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
        (["main.py"], "No function is marked with @task."),
    ],
)
def test_a_wrong_call_says_what_is_wrong(folder: Path, words: list[str], message: str) -> None:
    (folder / "main.py").write_text("")

    done = run(folder, *words)

    assert done.returncode != 0
    assert message in done.stderr
