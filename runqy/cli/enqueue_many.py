"""The command `runqy task enqueue-batch`: enqueue the lines of a file, chunk by chunk.

Each chunk is a request with an Idempotency-Key that follows from the file and the position, so that neither a repeated
request nor the same command once more enqueues a task twice.
"""

import hashlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runqy.cli.commands import Session
from runqy.cli.completion import complete_queues
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import echo
from runqy.cli.progress import ProgressBar, show_progress
from runqy.cli.values import read_number
from runqy.formats.json_decoding import describe_error, read_json

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runqy.cli.client import Reply

EXAMPLES = """
    runqy task enqueue-batch -q mail tasks.ndjson
    generate-tasks | runqy task enqueue-batch -q mail -
    """
_CHUNK_BYTES = 4 << 20
_LINE_BYTES = 64 << 20
"""A longer line is not read into memory; the server accepts none of this size."""
_EXPLAINED_MAX = 100
"""How many errors the server explains if no task of a request was enqueued."""
_SHOWN_ERRORS = 1000
_TIMEOUT_S = 120.0
_PATIENCE_S = 300
"""How long the same request is repeated while the server or the queue does not accept it."""
_PAUSE_MAX_S = 30
_FULL = ("queue_full", "queue_memory")
_UNAVAILABLE = ("broker_unavailable", "broker_full", "broker_refused", "broker_busy", "outcome_unknown")
_BATCH_REFUSED = ("batch_refused", "batch_conflict")


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    content: bytes


@dataclass(slots=True)
class _Report:
    """What has happened so far."""

    counts: Counter[str] = field(default_factory=Counter)
    done_through: int = 0
    """The last line that was read and whose outcome is known."""

    @property
    def tasks(self) -> int:
        """The number of tasks that are enqueued now."""
        return self.counts["enqueued"] + self.counts["replayed"]


def enqueue_tasks(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    file: Annotated[
        Path, typer.Argument(help="File with a task on each line; - reads standard input.", metavar="FILE")
    ],
    *,
    queue: Annotated[
        str,
        typer.Option(
            "--queue", "-q", metavar="QUEUE", help="Name of the queue or a sub-queue.", autocompletion=complete_queues
        ),
    ],
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", metavar="DURATION", help="Time limit of one run, such as 5m.")
    ] = "",
    delay: Annotated[
        str, typer.Option("--delay", metavar="DURATION", help="Delay before the tasks are processed, such as 1h30m.")
    ] = "",
    max_retry: Annotated[
        int | None, typer.Option("--max-retry", metavar="NUMBER", min=0, help="How often a task is retried.")
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="TASKS", min=1, max=10_000, help="Tasks in one request.")
    ] = 1000,
    from_line: Annotated[int, typer.Option("--from-line", metavar="NUMBER", min=1, help="Continue at this line.")] = 1,
    batch_id: Annotated[
        str,
        typer.Option(
            "--batch-id", metavar="TEXT", help="Tells apart runs that enqueue the same file. Default: from the file."
        ),
    ] = "",
) -> None:
    """Enqueue a task for each line of a file.

    A line is the payload as JSON, or an object with the payload in "data" and options of the task beside it. Lines with
    an error are reported with their numbers, and the others are enqueued.

    If the command was interrupted, run it again within 24 hours: lines that were enqueued are not enqueued twice, as
    long as the file and the options are the same. --from-line skips them faster.
    """
    members: dict[str, Any] = {"queue": queue}
    members |= {name: read_number(text) for name, text in (("timeout", timeout), ("delay", delay)) if text}
    members |= {} if max_retry is None else {"max_retry": max_retry}
    with _open(file) as stream:
        batch_id = batch_id or _identify(file)
        sender = _Sender(session, msgspec.json.encode(members), batch_id, str(file))
        try:
            with show_progress("Enqueueing", total=_size(file)) as sender.progress:
                sender.send_all(stream, chunk=chunk, from_line=from_line)
        except (KeyboardInterrupt, CliError) as error:
            _explain_stop(session, sender, error, is_stdin=str(file) == "-")
    _print_report(session, sender.report)


class _Sender:
    """Sends chunks, and counts what became of their lines."""

    def __init__(self, session: Session, members: bytes, batch_id: str, source: str) -> None:
        self._session, self._members, self._source = session, members, source
        self.batch_id = batch_id
        self.report = _Report()
        self.progress = ProgressBar()
        self._has_connected = False
        self._left = 0
        self._notes: set[str] = set()

    def send_all(self, stream: IO[bytes], *, chunk: int, from_line: int) -> None:
        """Send the lines from `from_line` on. Raise CliError."""
        position = 0
        for _ in range(1, from_line):
            skipped = len(_read_line(stream))
            if not skipped:
                raise CliError(f"{self._source}: The file ends before line {from_line - 1}.", ExitCode.USAGE)
            position += skipped
        self.report.done_through = number = from_line - 1
        lines: list[_Line] = []
        size = 0
        for number, raw in enumerate(iter(lambda: _read_line(stream), b""), from_line):
            position += len(raw)
            content = raw.strip()
            if content and (reason := find_line_error(content)):
                self._refuse(number, reason)
            elif content:
                if lines and (len(lines) == chunk or size + len(content) > _CHUNK_BYTES):
                    self._send(lines)
                    self.report.done_through = number - 1
                    lines, size = [], 0
                    self.progress.set(position, f"{self.report.tasks:,} tasks")
                lines.append(_Line(number, content))
                size += len(content)
        if lines:
            self._send(lines)
        self.report.done_through = number

    def _send(self, lines: Sequence[_Line]) -> None:
        """Enqueue lines. Those for which the queue is full are sent again until it has room. Raise CliError."""
        attempt, started, pause_s = 0, time.monotonic(), 1.0
        while lines := self._send_once(lines, attempt):
            if len(lines) < self._left:
                started, pause_s = time.monotonic(), 1.0
            self._left = len(lines)
            if time.monotonic() - started > _PATIENCE_S:
                raise CliError(f"The queue is full; {len(lines):,} tasks wait for room.", ExitCode.UNAVAILABLE)
            self._note_once("The queue is full. Waiting for room.")
            time.sleep(pause_s)
            attempt, pause_s = attempt + 1, min(pause_s * 2, _PAUSE_MAX_S)

    def _send_once(self, lines: Sequence[_Line], attempt: int) -> list[_Line]:
        """Enqueue lines in one request; in several if it is too large, or if the server cannot explain all errors.

        Return those for which the queue was full. Raise ServerError.
        """
        body = self._members[:-1] + b',"jobs":[' + b",".join(line.content for line in lines) + b"]}"
        # The position distinguishes equal chunks of a file, and the attempt what is sent again to a full queue: the
        # same request would get the same response.
        parts = (self.batch_id.encode(), b"%d" % lines[0].number, b"%d" % attempt, body)
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:40]
        try:
            reply = self._post(body, key)
        except ServerError as error:
            is_too_large = error.status == 413
            if len(lines) > 1 and (is_too_large or (error.code in _BATCH_REFUSED and len(lines) > _EXPLAINED_MAX)):
                size = len(lines) // 2 if is_too_large else _EXPLAINED_MAX
                starts = range(0, len(lines), size)
                return [line for start in starts for line in self._send_once(lines[start : start + size], attempt)]
            if not is_too_large and error.code not in _BATCH_REFUSED:
                raise
            for index, line in enumerate(lines):
                reason = error.errors[index] if index < len(error.errors) else str(error)
                self._refuse(line.number, reason.removeprefix(f"jobs[{index}]: "))
            return []
        return self._count(lines, reply)

    def _post(self, body: bytes, key: str) -> "Reply":
        """Send a request until the server accepts or refuses it, and all its tasks. Raise ServerError."""
        started, pause_s, is_replayed = time.monotonic(), 1.0, None
        while True:
            try:
                reply = self._session.api.post_once("/queue/add-batch", body, key=key, timeout_s=_TIMEOUT_S)
                # Repetitions complete a request that was interrupted, but only the first says if it was the first.
                is_replayed = reply.is_replayed if is_replayed is None else is_replayed
                unknown = [
                    error
                    for error, code in zip(reply.body["errors"], reply.body["codes"], strict=True)
                    if code in _UNAVAILABLE
                ]
                if not unknown:
                    self._has_connected = True
                    return replace(reply, is_replayed=is_replayed)
                error = ServerError(unknown[0], status=503)
            except ServerError as refusal:
                # The first request tells whether the server is there at all.
                if not refusal.is_temporary or (refusal.code == "unreachable" and not self._has_connected):
                    raise
                error = refusal
            if time.monotonic() - started > _PATIENCE_S:
                raise error
            self._note_once(f"{error} Trying again.")
            time.sleep(error.retry_after_s or pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _count(self, lines: Sequence[_Line], reply: "Reply") -> list[_Line]:
        """Count what became of lines, and return those for which the queue was full."""
        counts, body, full = self.report.counts, reply.body, []
        counts["replayed" if reply.is_replayed else "enqueued"] += body["enqueued"]
        counts["existing"] += len(body["existing"])
        for line, task_id, error, code in zip(lines, body["task_ids"], body["errors"], body["codes"], strict=True):
            if code in _FULL:
                full.append(line)
            elif error is not None:
                self._refuse(line.number, error)
            elif self._session.out.is_name:
                echo(task_id)
        for warning in body.get("warnings") or ():
            self._note_once(warning)
        return full

    def _note_once(self, message: str) -> None:
        if message not in self._notes:
            self._notes.add(message)
            self.progress.print(f"runqy: {message}")

    def _refuse(self, number: int, reason: str) -> None:
        self.report.counts["failed"] += 1
        if self.report.counts["failed"] <= _SHOWN_ERRORS:
            self.progress.print(f"{self._source}:{number}: {reason}")


def _read_line(stream: IO[bytes]) -> bytes:
    """Return the next line, or of a very long one the beginning, which is no JSON; empty at the end."""
    line = stream.readline(_LINE_BYTES)
    rest = line
    while rest and len(rest) == _LINE_BYTES and not rest.endswith(b"\n"):
        rest = stream.readline(_LINE_BYTES)
    return line


def find_line_error(content: bytes) -> str:
    """Return why a line is not JSON; empty if it is."""
    if len(content) >= _LINE_BYTES:
        return "The line is too long."
    try:
        content.decode()  # msgspec does not validate the UTF-8 of what it skips
        read_json(content, msgspec.Raw)
    except UnicodeDecodeError as error:
        return f"Not UTF-8 (byte {error.start + 1})."
    except (msgspec.DecodeError, RecursionError) as error:
        return f"Not JSON: {describe_error(error, content)}"
    return ""


def _open(file: Path) -> "AbstractContextManager[IO[bytes]]":
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}.", ExitCode.USAGE) from error


def _identify(file: Path) -> str:
    """Return what tells the lines from others: a file as it is now, or this run of the command for other input."""
    if str(file) == "-" or not file.is_file():
        return secrets.token_hex(8)
    status = file.stat()
    return f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _size(file: Path) -> int | None:
    return file.stat().st_size if str(file) != "-" and file.is_file() else None


def _explain_stop(session: Session, sender: _Sender, error: BaseException, *, is_stdin: bool) -> None:
    """Print how far the command came, and how to continue. Exit with the status of the error."""
    is_interrupted = isinstance(error, KeyboardInterrupt)
    through = sender.report.done_through
    if isinstance(error, CliError):
        if not through:
            raise error
        session.explain(error)
    else:
        session.out.note("Interrupted.")
    rest = f"--from-line {through + 1}" + (f" --batch-id {sender.batch_id}" if is_stdin else "")
    session.out.note(
        f"{sender.report.tasks:,} tasks are enqueued, through line {through}. To continue, add {rest} to the command."
    )
    raise typer.Exit(ExitCode.INTERRUPTED if is_interrupted else getattr(error, "exit_code", ExitCode.FAILED))


def _print_report(session: Session, report: _Report) -> None:
    """Print what was enqueued. Exit with FAILED if a line was not."""
    counts = report.counts
    found = {name: counts[name] for name in ("enqueued", "replayed", "existing", "failed")}
    if not session.out.is_name:
        session.out.result(found, f"{counts['enqueued']:,} enqueued, {counts['failed']:,} failed")
    if counts["replayed"]:
        session.out.note(
            f"{counts['replayed']:,} had been enqueued by this command before. Use --batch-id to enqueue them again."
        )
    if counts["existing"]:
        session.out.note(f"{counts['existing']:,} have the unique_key of a task that exists.")
    if counts["failed"] > _SHOWN_ERRORS:
        session.out.note(f"{counts['failed'] - _SHOWN_ERRORS:,} more lines failed.")
    if counts["failed"]:
        raise typer.Exit(ExitCode.FAILED)
