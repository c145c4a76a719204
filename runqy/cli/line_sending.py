"""Send the lines of a file, each a task, as tasks or as members of a batch: in parts, of which any may be refused."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import quote

import msgspec

from runqy.cli.client import Patience
from runqy.cli.commands import Session
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.output import echo
from runqy.cli.progress import ProgressBar
from runqy.cli.queue_files import note_warnings
from runqy.core.formats.json_decoding import describe_error, read_json
from runqy_sdk.client.api_errors import BrokerUnavailable, QueueFull
from runqy_sdk.client.errors import ApiError, ServerUnreachable, make_error
from runqy_sdk.client.operations import Call, Operation, Reply, read_body, reasons_of_refusal, send

PART = 10_000
"""How many jobs a request may have."""
_PART_BYTES = 4 << 20
_LINE_BYTES = 64 << 20
"""A longer line is not read into memory; the server accepts none of this size."""
_EXPLAINED_MAX = 100
"""How many errors the server explains if no job of a request is valid."""
_SHOWN_ERRORS = 1000
_EXTRA_TIMEOUT_S = 90.0
_PATIENCE_S = 300
"""How long the same request is repeated while the server or the queue does not accept it."""
_REFUSED = ("batch_refused", "batch_conflict")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is JSON."""

    number: int
    content: bytes
    end: int
    """The position in the file behind it."""


@dataclass
class LineSender:
    """Sends lines, and prints those that are refused with their numbers."""

    session: Session
    queue: str
    source: str
    """The name of the file."""
    progress: ProgressBar = field(default_factory=ProgressBar)
    counts: Counter[str] = field(default_factory=Counter)
    done_through: int = 0
    """The last line that was read and whose outcome is known."""
    patience: Patience = field(init=False)
    _notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.patience = Patience(self.note_once, _PATIENCE_S, waits_at_first=True)

    def read(self, stream: IO[bytes], *, after: int = 0) -> Iterator[Line]:
        """Yield the lines of a file after one with a number, and refuse those that are not JSON. Raise CliError."""
        position = 0
        for _ in range(after):
            skipped = len(_read_line(stream))
            if not skipped:
                raise CliError(f"{self.source}: The file ends before line {after}.", ExitCode.USAGE)
            position += skipped
        self.done_through = after
        for number, raw in enumerate(iter(lambda: _read_line(stream), b""), after + 1):
            position += len(raw)
            content = raw.strip()
            if content and (reason := _find_error(content)):
                self.refuse(number, reason)
            elif content:
                yield Line(number, content, position)

    def send_all(self, lines: Iterable[Line], *, size: int) -> None:
        """Send lines in parts. Raise CliError."""
        for part in _parts(lines, size):
            self.session.api.run(self._divide(part))
            self.done_through = part[-1].number
            self.progress.set(part[-1].end, f"{self.counts['enqueued'] + self.counts['replayed']:,} tasks")

    def send(self, lines: Sequence[Line]) -> Operation[None]:
        """Send lines in one request. Raise ApiError if it is refused as a whole."""
        raise NotImplementedError

    def refuse(self, number: int, reason: str) -> None:
        self.counts["failed"] += 1
        if self.counts["failed"] <= _SHOWN_ERRORS:
            self.progress.print(f"{self.source}:{number}: {reason}")
        elif self.counts["failed"] == _SHOWN_ERRORS + 1:
            self.progress.print(f"{self.source}:{number}: failed too. More lines with errors are only counted.")

    def note_once(self, message: str) -> None:
        if message not in self._notes:
            self._notes.add(message)
            self.progress.print(f"runqy: {message}")

    def _divide(self, lines: Sequence[Line]) -> Operation[None]:
        """Send lines; in several requests if one is too large, or if the server cannot explain all errors."""
        try:
            yield from self.send(lines)
        except ApiError as error:
            is_too_large, is_refused = error.status == 413, error.received_code in _REFUSED
            if not (is_too_large or is_refused):
                raise
            size = len(lines) // 2 if is_too_large else _EXPLAINED_MAX
            if 0 < size < len(lines):
                for start in range(0, len(lines), size):
                    yield from self._divide(lines[start : start + size])
                return
            for line, reason in zip(lines, reasons_of_refusal(error, len(lines)), strict=True):
                self.refuse(line.number, reason)


@dataclass
class TaskSender(LineSender):
    """Enqueues lines.

    Each request has an Idempotency-Key that follows from the file and the position, so that neither a repeated request
    nor the same command once more enqueues a task twice.
    """

    members: Mapping[str, Any] = field(default_factory=dict)
    """What all requests have beside the tasks."""
    batch_id: str = ""

    def send(self, lines: Sequence[Line]) -> Operation[None]:
        """Enqueue lines. Those for which the queue is full are sent again until it has room."""
        head, attempt = msgspec.json.encode({"queue": self.queue, **self.members})[:-1], 0
        while lines:
            body = head + b',"jobs":[' + b",".join(line.content for line in lines) + b"]}"
            # The position distinguishes equal parts of a file, and the attempt what is sent again to a full queue: the
            # same request would get the same response.
            parts = (self.batch_id.encode(), b"%d" % lines[0].number, b"%d" % attempt, body)
            headers = {"Idempotency-Key": hashlib.sha256(b"\0".join(parts)).hexdigest()[:40]}
            call = Call("POST", "/queue/add-batch", body=body, headers=headers, extra_timeout_s=_EXTRA_TIMEOUT_S)
            full = yield from self._send(call, lines)
            if len(full) < len(lines):
                self.patience.reset()
            if full:
                yield self.patience.next_pause(make_error("queue_full", "The queue is full.", status=503))
            lines, attempt = full, attempt + 1

    def _send(self, call: Call, lines: Sequence[Line]) -> Operation[list[Line]]:
        """Send a request until the outcomes of all its tasks are known. Return those for which the queue was full."""
        is_replayed: bool | None = None
        while True:
            try:
                reply: Reply = yield call
                body = read_body(reply)
                # Repetitions complete a request that was interrupted, but only the first says if it was the first.
                is_replayed = "idempotent-replayed" in reply.headers if is_replayed is None else is_replayed
                outcomes = zip(body["codes"], body["errors"], strict=True)
                failures = [code and make_error(code, text, status=503) for code, text in outcomes]
                unknown = next((each for each in failures if isinstance(each, BrokerUnavailable)), None)
                if unknown is None:
                    break
                failure: ApiError | ServerUnreachable = unknown
            except ServerUnreachable as error:
                failure = error
            except ApiError as error:
                if not error.is_temporary:
                    raise
                failure = error
            yield self.patience.next_pause(failure)
        self.counts["replayed" if is_replayed else "enqueued"] += body["enqueued"]
        self.counts["existing"] += len(body["existing"])
        full = []
        for line, task_id, failed in zip(lines, body["task_ids"], failures, strict=True):
            if isinstance(failed, QueueFull):
                full.append(line)
            elif failed:
                self.refuse(line.number, str(failed))
            elif self.session.out.is_name:
                echo(task_id)
        for warning in body.get("warnings") or ():
            self.note_once(warning)
        return full


@dataclass
class BatchSender(LineSender):
    """Adds lines to a batch. The first part with a valid line creates it, unless it exists."""

    batch: str = ""
    """The id; empty until it is created."""
    creation: dict[str, Any] = field(default_factory=dict)
    """The members of the body that creates it."""
    last: dict[str, Any] = field(default_factory=dict)
    """The batch in the last response."""

    def send_all(self, lines: Iterable[Line], *, size: int = 0) -> None:
        """Send all lines. Raise CliError; then standard error has the id of the batch, and how to continue."""
        with self._noted("Add the others by `runqy batch add`, or cancel it."):
            super().send_all(lines, size=size or PART)

    def close(self) -> dict[str, Any]:
        """Close the batch, and return it. Raise CliError, as `send_all`."""
        with self._noted("Close it by `runqy batch close`."):
            return self.session.api.post(f"{_path(self.batch)}/close", {})

    @contextmanager
    def _noted(self, advice: str) -> Generator[None, None, None]:
        """Say what exists, and how to go on, if the block fails or is interrupted."""
        try:
            yield
        except (CliError, KeyboardInterrupt):
            if self.batch:
                where = f"Batch {self.batch} is open, with the lines through {self.done_through} of {self.source}"
                self.session.out.note(f"{where}. {advice}")
            raise

    def send(self, lines: Sequence[Line]) -> Operation[None]:
        jobs = {"queue": self.queue, "jobs": [msgspec.Raw(line.content) for line in lines]}
        path, body = (f"{_path(self.batch)}/add", jobs) if self.batch else ("/batches", self.creation | jobs)
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        call = Call("POST", path, body=msgspec.json.encode(body), headers=headers)
        self.last = yield from send(call, self.patience)
        self.patience.reset()
        if not self.batch:
            self.batch = self.last["id"]
            note_warnings(self.session, self.last)
        for line, reason in zip(lines, self.last.pop("errors", ()), strict=False):
            if reason:
                self.refuse(line.number, reason)


def _path(batch: str) -> str:
    return f"/batches/{quote(batch, safe='')}"


def _parts(lines: Iterable[Line], count: int) -> Iterator[list[Line]]:
    """Divide lines into requests."""
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and (len(part) == count or size + len(line.content) > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line.content)
    if part:
        yield part


def _read_line(stream: IO[bytes]) -> bytes:
    """Return the next line, or of a very long one the beginning, which is no JSON; empty at the end."""
    line = stream.readline(_LINE_BYTES)
    rest = line
    while rest and len(rest) == _LINE_BYTES and not rest.endswith(b"\n"):
        rest = stream.readline(_LINE_BYTES)
    return line


def _find_error(content: bytes) -> str:
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
