"""Send the lines of a file as members of a batch: in parts, of which each may be invalid as a whole."""

import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session
from runqy.cli.enqueue_many import find_line_error
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import echo
from runqy.cli.queue_files import note_warnings
from runqy.cli.values import clean

PART = 10_000
"""How many jobs a request may have."""
_EXPLAINED_MAX = 100
"""How many errors the server explains if no job of a request is valid."""
_SHOWN_ERRORS = 1000
_PATIENCE_S = 300
"""How long the same request is repeated while the server does not accept it."""
_PAUSE_S = 1.0

Line = tuple[int, msgspec.Raw]
"""A line with its number."""


@dataclass(slots=True)
class Jobs:
    """The lines of a file, and how many of them are no members."""

    queue: str = ""
    source: str = ""
    lines: list[Line] = field(default_factory=list)
    failed: int = 0

    @property
    def is_one_request(self) -> bool:
        return len(self.lines) <= PART

    def refuse(self, number: int, reason: str) -> None:
        self.failed += 1
        if self.failed <= _SHOWN_ERRORS:
            echo(clean(f"{self.source}:{number}: {reason}"), err=True)


def read_jobs(file: Path, queue: str) -> Jobs:
    """Return the lines of a file that are JSON. Raise CliError without a queue, or for a file that cannot be read."""
    if not queue:
        raise CliError("--queue is required with FILE.", ExitCode.USAGE)
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}.", ExitCode.USAGE) from error
    jobs = Jobs(queue=queue, source=str(file))
    for number, raw in enumerate(content.splitlines(), 1):
        if line := raw.strip():
            if reason := find_line_error(line):
                jobs.refuse(number, reason)
            else:
                jobs.lines.append((number, msgspec.Raw(line)))
    if jobs.failed and not jobs.lines:
        raise typer.Exit(ExitCode.FAILED)
    return jobs


def batch_path(batch: str) -> str:
    return f"/batches/{quote(batch, safe='')}"


@dataclass(slots=True)
class BatchSender:
    """Adds lines to a batch. The first part with a valid line creates it, unless it exists."""

    session: Session
    jobs: Jobs
    batch: str = ""
    """The id; empty until it is created."""
    creation: dict[str, Any] = field(default_factory=dict)
    """The members of the body that creates it."""
    last: dict[str, Any] = field(default_factory=dict)
    """The batch in the last response."""
    _through: int = 0

    def send(self) -> None:
        """Send all lines. Raise CliError; then standard error has the id of the batch, and how to continue."""
        try:
            for start in range(0, len(self.jobs.lines), PART):
                part = self.jobs.lines[start : start + PART]
                self._send_part(part)
                self._through = part[-1][0]
        except (CliError, KeyboardInterrupt):
            if self.batch:
                where = f"Batch {self.batch} is open, with the lines through {self._through} of {self.jobs.source}"
                self.session.out.note(f"{where}. Add the others by `runqy batch add`, or cancel it.")
            raise

    def _send_part(self, part: Sequence[Line]) -> None:
        jobs = {"queue": self.jobs.queue, "jobs": [line for _, line in part]}
        path, body = (f"{batch_path(self.batch)}/add", jobs) if self.batch else ("/batches", self.creation | jobs)
        try:
            self.last = self._post(path, msgspec.json.encode(body))
        except ServerError as error:
            if error.code != "batch_refused":
                raise
            if len(part) > _EXPLAINED_MAX:
                for start in range(0, len(part), _EXPLAINED_MAX):
                    self._send_part(part[start : start + _EXPLAINED_MAX])
                return
            for index, (number, _) in enumerate(part):
                reason = error.errors[index] if index < len(error.errors) else str(error)
                self.jobs.refuse(number, reason.removeprefix(f"jobs[{index}]: "))
            return
        if not self.batch:
            self.batch = self.last["id"]
            note_warnings(self.session, self.last)
        for (number, _), reason in zip(part, self.last.pop("errors", ()), strict=False):
            if reason:
                self.jobs.refuse(number, reason)

    def _post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send a request until the server accepts or refuses it. Raise ServerError."""
        started, key, is_noted = time.monotonic(), secrets.token_hex(16), False
        while True:
            try:
                return self.session.api.post_once(path, body, key=key).body
            except ServerError as error:
                is_over = time.monotonic() - started > _PATIENCE_S
                if not error.is_temporary or error.code == "unreachable" or is_over:
                    raise
                if not is_noted:
                    self.session.out.note(f"{error} Trying again.")
                is_noted = True
                time.sleep(error.retry_after_s or _PAUSE_S)
