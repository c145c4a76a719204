"""What of a child's output reaches the worker's log."""

import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from workers.runtime import logs
from workers.runtime.logs import BURST_LINES, LINE_MAX_BYTES, ChildLog
from workers.runtime.redaction import Secrets


def test_lines_are_logged_and_the_last_ones_kept() -> None:
    log = ChildLog(pid=7)
    with capture_logs() as entries:
        log.feed(b"one\ntw")
        log.feed(b"o\n\nthree")

    lines = [(entry["line"], entry["child"]) for entry in entries if entry["event"] == "child_output"]
    assert lines == [("one", 7), ("two", 7)]
    assert log.tail == "one\ntwo"


def test_a_long_line_is_truncated_with_a_note() -> None:
    log = ChildLog(pid=7)
    with capture_logs() as entries:
        log.feed(b"x" * 20_000 + b"\n" + b"y" * (2 << 20) + b"\n")

    lines = [entry["line"] for entry in entries if entry["event"] == "child_output"]
    assert lines == ["x" * LINE_MAX_BYTES + " [truncated, 20000 bytes]", "[line too long to log]"]


def test_a_secret_is_masked_where_a_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets()
    secrets.add(["hunter2-hunter2"])
    monkeypatch.setattr(logs, "secrets", secrets)
    log = ChildLog(pid=7)

    with capture_logs() as entries:
        log.feed(b"x" * (LINE_MAX_BYTES - 10) + b"hunter2-hunter2 and more\n")

    (line,) = (entry["line"] for entry in entries if entry["event"] == "child_output")
    assert line == log.tail == "x" * (LINE_MAX_BYTES - 10) + "**** and m [truncated, 8195 bytes]"


def test_a_line_of_stdout_that_is_too_long_is_not_logged() -> None:
    log = ChildLog(pid=7)

    log.add(b"y" * (2 << 20))

    assert log.tail == "[line too long to log]"


def test_a_flood_of_output_is_limited_and_missing_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.TokenBucket.__init__, "__kwdefaults__", {"now_s": lambda: now[0]})
    log = ChildLog(pid=7)
    with capture_logs() as entries:
        log.feed(b"spam\n" * (BURST_LINES + 500))
        log.feed(b"the last words\n")
        assert log.tail.endswith("\nspam\nthe last words")
        now[0] = 10.0
        log.feed(b"calm\n")

    assert sum(entry["event"] == "child_output" for entry in entries) == BURST_LINES + 1
    assert [entry["lines"] for entry in entries if entry["event"] == "child_output_cut"] == [501]


def test_lines_of_libraries_and_tracebacks_are_json_without_secrets() -> None:
    program = """
import logging
from workers.runtime.logs import configure_logging
from workers.runtime.redaction import secrets
configure_logging()
secrets.add(["hunter2-hunter2"])
try:
    raise ValueError("hunter2-hunter2")
except ValueError:
    logging.getLogger("asyncio").exception("hunter2-hunter2 was never retrieved")
"""

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stderr

    entry = json.loads(printed)
    assert (entry["event"], entry["logger"]) == ("**** was never retrieved", "asyncio")
    assert entry["exception"].endswith("ValueError: ****")
