"""What the log shows of the text with which a task failed."""

import asyncio
import traceback
from collections.abc import Callable

import pytest

from runqy.broker.message import ERROR_MAX_BYTES
from runqy.core.formats.error_texts import find_error_line, find_start_error, shorten
from workers.runtime import logs
from workers.runtime.logs import SUMMARY_MAX_CHARS, child_error_members, error_members
from workers.runtime.redaction import Secrets


def raise_plainly() -> None:
    raise ValueError("no such customer")


def raise_while_handling() -> None:
    try:
        raise_plainly()
    except ValueError as error:
        raise RuntimeError("cannot send\n  the mail") from error


def raise_with_indented_source() -> None:
    compile("if True:\npass", "main.py", "exec")


async def raise_in_a_group() -> None:
    async def fail() -> None:
        raise_plainly()

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (raise_plainly, "ValueError: no such customer"),
        (raise_while_handling, "RuntimeError: cannot send"),
        (raise_with_indented_source, "IndentationError: expected an indented block after 'if' statement on line 1"),
        (lambda: asyncio.run(raise_in_a_group()), "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)"),
    ],
)
def test_class_and_message_come_first_and_the_traceback_after(act: Callable[[], None], error: str) -> None:
    try:
        act()
    except Exception:  # noqa: BLE001 (as the SDK does)
        text = traceback.format_exc()

    assert error_members(text) == {"error": error, "exception": text.strip()}


def test_a_text_of_one_line_is_not_repeated() -> None:
    assert error_members("timed out after 1 s\n") == {"error": "timed out after 1 s"}


TRACEBACK = (
    "Traceback (most recent call last):\n  File \"main.py\", line 1\nModuleNotFoundError: No module named 'torch'"
)


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", "the child process exited with status 1"),
        (
            f"loading\n{TRACEBACK}",
            "the child process exited with status 1: ModuleNotFoundError: No module named 'torch'",
        ),
        (f"{TRACEBACK}\ncontinuing without it", "the child process exited with status 1"),
    ],
)
def test_a_child_that_ended_shows_its_status_and_the_exception_that_ended_it(output: str, error: str) -> None:
    cause = f"the child process exited with status 1\n{output}".strip()

    members = child_error_members(cause)

    assert members == {"error": error} | ({"exception": cause} if output else {})


def test_the_first_of_several_lines_is_the_error() -> None:
    text = "the child process was killed by SIGKILL\nloading\nout of memory"

    assert error_members(text) == {"error": "the child process was killed by SIGKILL", "exception": text}


def test_nothing_is_missing_from_the_end_of_a_long_text() -> None:
    text = f"ValueError: {'x' * 3 * ERROR_MAX_BYTES} the end"

    members = error_members(text)

    assert members["error"] == f"{text[:SUMMARY_MAX_CHARS]} ..."
    assert members["exception"].endswith("x the end")
    assert len(members["exception"]) <= ERROR_MAX_BYTES + 4


def test_a_secret_is_masked_where_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets()
    secrets.add(["s3cret-of-the-vault"])
    monkeypatch.setattr(logs, "secrets", secrets)
    text = f"ValueError: {'s3cret-of-the-vault ' * ERROR_MAX_BYTES}"

    members = error_members(text)

    assert "**** ****" in members["error"]
    assert not any(part in text for part in ("s3cret", "vault") for text in members.values())


def test_of_a_long_traceback_the_exception_is_found() -> None:
    frames = '  File "main.py", line 1, in deep\n    deep()\n' * 1000

    members = error_members(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n")

    assert members["error"] == "RecursionError: too deep"
    assert members["exception"].endswith("RecursionError: too deep")


def test_a_task_without_an_error_text_has_an_empty_one() -> None:
    assert error_members("") == {"error": ""}


def test_each_line_of_a_secret_is_masked_by_itself() -> None:
    known = Secrets()
    known.add(["-----BEGIN KEY-----\nMIIEvgIBADAN\n-----END KEY-----"])

    assert known.redact("the second line is MIIEvgIBADAN") == "the second line is ****"


def test_a_secret_that_contains_another_one_is_masked_as_a_whole() -> None:
    known = Secrets()
    known.add(["short-secret", "a-short-secret-in-a-long-one"])

    assert known.redact("it is a-short-secret-in-a-long-one") == "it is ****"


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (
            "ERROR: Could not find a version that satisfies six==99 (from versions: 1.16, 1.17)\n"
            "ERROR: No matching distribution found for six==99",
            "ERROR: No matching distribution found for six==99",
        ),
        (
            "ERROR: Invalid requirement: 'six=>1' (from line 1 of requirements.txt)",
            "python pip failed: ERROR: Invalid requirement: 'six=>1' (from line 1 of requirements.txt)",
        ),
        (
            "      Traceback (most recent call last):\n"
            '        File "<string>", line 1, in <module>\n'
            "      ValueError: broken build\n"
            "      [end of output]\n"
            "  \n"
            "  note: This error originates from a subprocess, and is likely not a problem with pip.\n"
            "ERROR: Failed to build 'broken' when getting requirements to build wheel",
            "ValueError: broken build",
        ),
    ],
)
def test_of_what_pip_prints_the_last_error_is_the_reason(printed: str, line: str) -> None:
    assert find_error_line(f"python pip failed: {printed}") == line


@pytest.mark.parametrize(
    ("files", "place"),
    [
        (("main.py", "lib/load.py", "/usr/lib/python3.13/json/decoder.py"), "lib/load.py, line 2"),
        (("main.py", "<frozen importlib._bootstrap>"), "main.py, line 1"),
        (("/venv/bin/uvicorn", "/venv/lib/uvicorn/main.py"), "/venv/lib/uvicorn/main.py, line 2"),
        ((), ""),
    ],
)
def test_the_place_of_an_error_is_the_last_frame_in_the_own_code(files: tuple[str, ...], place: str) -> None:
    frames = (f'  File "{file}", line {number}, in f\n    f()' for number, file in enumerate(files, 1))
    exited, killed = "the child process exited with status 1", "the child process was killed by SIGKILL"
    trace = "\n".join([*frames, "ValueError: no", "b", "from stdout"])

    assert find_start_error(f"{exited}\n{trace}") == (f"ValueError: no ({place})" if place else exited)
    assert find_start_error(f"{killed}\n{trace}") == killed


def test_a_failed_build_is_described_by_its_exception() -> None:
    reason = """uv pip failed: error: The build backend returned an error
  cause: Call to `setuptools.build_meta` failed (exit status: 1)

         [stderr]
         Traceback (most recent call last):
           File "<string>", line 14, in <module>
         ValueError: broken build

hint: This usually indicates a problem with the package or the build environment,
  or with both.
"""

    assert find_error_line(reason) == "ValueError: broken build"


def test_a_long_text_keeps_its_first_line_and_its_end() -> None:
    text = "exited with status 1\n" + "x" * 1000 + "\nImportError: no b"

    assert shorten(text, len(text)) == text
    shortened = shorten(text, 100)
    assert (len(shortened), shortened.partition("\n")[0]) == (100, "exited with status 1")
    assert shortened.endswith("x\nImportError: no b")
    assert len(shorten("x" * 1000, 100)) == 100
