"""The line protocol of children: one JSON object for each line (docs/reference/protocol.md)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import msgspec

from runqy.broker.streams.run_log import CLASS_MAX_BYTES
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.broker.tasks.record import TaskProgress
from runqy.core.formats.json_decoding import check_depth, convert, describe_error, read_json
from workers.runtime.invalid_json import MAX_EXAMINED_BYTES, describe_invalid, describe_not_utf8, is_text

MAX_LINE_BYTES = 32 << 20
"""The limit of a response. A longer one fails its task."""
MAX_ERROR_BYTES = 256 << 10
"""What is kept of an error until it is recorded, with less. The end: a traceback ends with what matters."""
_MAX_VALUE_BYTES = 4096
"""What other values have at most. The tasks of a batch are limited too, so that a line becomes few objects."""
_MAX_MEMBERS = 256


class BatchLimits(msgspec.Struct, frozen=True):
    """How many tasks a child takes as one batch, and how long the first of them may wait for others."""

    max_size: Annotated[int, msgspec.Meta(ge=1, le=_MAX_MEMBERS)]
    max_wait_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0


class _Announcement(msgspec.Struct, frozen=True):
    """What a ready line says if its child accepts the member."""

    accepts: list[str] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    batch: BatchLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a child can do."""

    accepts_cancel: bool = False
    is_concurrent: bool = False
    """It takes up to `concurrency` tasks without waiting for responses."""
    streams: bool = False
    concurrency: int = 1
    """How many tasks, or batches, it works on at once."""
    batch: BatchLimits | None = None

    @property
    def sends_logs(self) -> bool:
        """Whether it may name the task that a line of output belongs to."""
        return self.streams or self.is_concurrent or self.batch is not None


NOT_ANNOUNCED = Ready()


_NULL = msgspec.Raw(b"null")


class ChildResponse(msgspec.Struct):
    """A line from a child. Either the child is ready or cannot start (`status`), or a task ended (`task_id`).

    Programs may send anything. Values are decoded when they are needed, and only short ones.
    """

    status: str | None = None
    accepts: msgspec.Raw = _NULL
    concurrency: msgspec.Raw = _NULL
    batch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    task_id: str | None = None
    result: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    retry: msgspec.Raw = _NULL
    retry_delay_s: msgspec.Raw = _NULL
    error_class: msgspec.Raw = _NULL
    progress: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    chunk: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    log: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    protocol_error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_intermediate(self) -> bool:
        """Whether the line has a member of those that are sent while a task runs."""
        return not (self.progress is self.chunk is self.log is msgspec.UNSET)

    @property
    def error_text(self) -> str:
        """Return the error's text, or the end of a long one; empty means success."""
        if self.error is _NULL:
            return ""
        error = bytes(self.error)
        if error == b"null" or not _read_value(error):
            return ""
        text = _read_text(error)
        if text is None:
            text = error[-MAX_ERROR_BYTES:].decode(errors="replace")
        return text if len(text) <= MAX_ERROR_BYTES else f"... {text[-MAX_ERROR_BYTES:]}"

    @property
    def wants_retry(self) -> bool:
        return bool(_read_value(bytes(self.retry)))

    @property
    def delay_s(self) -> object:
        """Return the delay that the task requested for its retry: any value of JSON; None without one."""
        return _read_value(bytes(self.retry_delay_s))

    @property
    def exception_path(self) -> str:
        """Return the import path of the exception behind the error; empty if there is none that can be kept."""
        path = _read_value(bytes(self.error_class))
        is_path = isinstance(path, str) and path.isprintable() and len(path.encode()) <= CLASS_MAX_BYTES
        return str(path) if is_path else ""


class _ChunkOnly(msgspec.Struct, forbid_unknown_fields=True):
    """The line of a chunk, of which a child sends thousands a second, as the SDK and the documentation write it."""

    task_id: str
    chunk: msgspec.Raw


class _Outcome(msgspec.Struct):
    """The members that distinguish a response from what a child sends while a task runs, not decoded.

    This struct accepts every line that ChildResponse accepts: other members are skipped.
    """

    status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    retry: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class InvalidResponse:
    """A response that names its task but cannot be stored."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """The progress of a task that continues."""

    task_id: str | None
    """None for the task that the child works on."""
    progress: TaskProgress


class ChunkLine(msgspec.Struct, frozen=True):
    """A part of the stream of a task that continues."""

    task_id: str | None
    """None for the task that the child works on."""
    value: bytes | None
    """JSON; None if it cannot be kept."""
    problem: str = ""
    """Why it cannot be kept; empty if the line is too long to be read."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """Output of one task that continues."""

    task_id: str
    text: str


@dataclass(frozen=True, slots=True)
class BatchResponse:
    """A response for a whole batch."""

    task_ids: frozenset[str]
    """Tasks that the line names: those of the batch, or some of them."""
    members: Sequence[ChildResponse | InvalidResponse] = ()
    failure: ChildResponse | None = None
    """Why the batch failed as a whole."""
    is_valid: bool = True
    """Whether the line is JSON, and not for instance cut off."""


_Members = msgspec.defstruct(
    "_Members",
    [(f"member{n}", ChildResponse | msgspec.UnsetType, msgspec.UNSET) for n in range(_MAX_MEMBERS)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""An array whose length is checked while it is decoded, and not afterwards."""


class _BatchLine(msgspec.Struct):
    batch: _Members  # type: ignore[valid-type]
    error: msgspec.Raw = _NULL
    retry: msgspec.Raw = _NULL
    retry_delay_s: msgspec.Raw = _NULL
    error_class: msgspec.Raw = _NULL


ChildLine = BatchResponse | ChildResponse | InvalidResponse | ProgressReport | ChunkLine | LogLine
"""A line from a child that is part of the protocol."""
_CHUNK_WITHIN = 512
"""Where the name of the member is looked for. A line that has it later is read more slowly."""
_RESPONSE_MEMBERS = set(_Outcome.__struct_fields__)
_RESPONSE_START = re.compile(rb'\s*\{\s*"task_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_LONG_RESPONSE_START = re.compile(rb'\s*\{\s*"(task_id|result|error|retry)"\s*:')
_LONG_CHUNK_START = re.compile(rb'\s*\{\s*("task_id"\s*:\s*"([^"\\]|\\.)*"\s*,\s*)?"chunk"\s*:')
_LOG = re.compile(rb'\s*\{\s*"task_id"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"log"\s*:\s*"(.*?)"?\s*\}?\s*$', re.DOTALL)
_BATCH_START = re.compile(rb'\s*\{\s*"batch"\s*:\s*\[\s*(\{|\]|$)')
_TASK_ID = re.compile(rb'"task_id"\s*:\s*("[^"\\\x00-\x1f]*")')
_decode_line = msgspec.json.Decoder(ChildResponse).decode
_decode_chunk = msgspec.json.Decoder(_ChunkOnly).decode
_decode_outcome = msgspec.json.Decoder(_Outcome).decode
_NO_OUTCOME = _Outcome()
_decode_text = msgspec.json.Decoder(str).decode
_decode_progress = msgspec.json.Decoder(TaskProgress).decode


def read_ready(response: ChildResponse) -> Ready:
    """Return what a ready line says. Raise ValueError, naming the member that is invalid."""
    accepted = _read_value(bytes(response.accepts))
    accepts: list[object] = accepted if isinstance(accepted, list) else []
    has_batches, is_concurrent = "batch" in accepts, "concurrent" in accepts
    content: dict[str, object] = {"accepts": accepted}
    # Without these words in `accepts`, the members mean nothing: a child of an older SDK may send anything in them.
    if (is_concurrent or has_batches) and bytes(response.concurrency) != b"null":
        content["concurrency"] = _read_value(bytes(response.concurrency))
    if has_batches:
        content["batch"] = None if response.batch is msgspec.UNSET else _read_value(bytes(response.batch))
    try:
        announced = convert(content, _Announcement)
    except msgspec.ValidationError as error:
        raise ValueError(f"the ready line is invalid: {error}") from error
    if has_batches and announced.batch is None:
        raise ValueError("the ready line is invalid: it accepts batch, but `batch` with `max_size` is missing")
    return Ready(
        accepts_cancel=is_concurrent or "cancel" in accepts,
        is_concurrent=is_concurrent,
        streams="stream" in accepts,
        concurrency=announced.concurrency,
        batch=announced.batch,
    )


def decode_response(  # noqa: PLR0911 (one for each kind of line)
    line: bytes, ready: Ready = NOT_ANNOUNCED
) -> ChildLine | None:
    """Decode a line of a child that announced this; None if the line is not part of the protocol."""
    if ready.streams and line.find(b'"chunk"', 0, _CHUNK_WITHIN) > 0 and (chunk := _read_plain_chunk(line)):
        return chunk
    try:
        check_depth(line)
        response = _decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if ready.batch and _BATCH_START.match(line):
            return _read_invalid_batch(line, error)
        return _read_invalid(line, error, ready)
    if ready.batch and response.batch is not msgspec.UNSET and response.task_id is response.status is None:
        return _read_batch(line)
    if response.protocol_error is not msgspec.UNSET and ready.sends_logs:
        return BatchResponse(frozenset(), failure=ChildResponse(error=response.protocol_error))
    if response.is_intermediate and _decode_outcome(line) == _NO_OUTCOME:
        if response.progress is not msgspec.UNSET:
            return _read_progress(response.task_id, response.progress)
        if response.chunk is not msgspec.UNSET and ready.streams:
            return _read_chunk(line, response.task_id, bytes(response.chunk))
        if response.log is not msgspec.UNSET and ready.sends_logs:
            return _read_log(response.task_id, response.log)
    # msgspec does not check the UTF-8 of a Raw. ASCII is the cheap test: `bytes` copies the result.
    if response.task_id is not None and not (line.isascii() or is_text(bytes(response.result))):
        return InvalidResponse(response.task_id, describe_not_utf8(line))
    return response if response.task_id is not None or response.status is not None else None


def read_task_id(start: bytes) -> str | None:
    """Return the task's id if a line begins with it."""
    start_of_response = _RESPONSE_START.match(start)
    try:
        return str(json.loads(start_of_response[1])) if start_of_response else None
    except ValueError:
        return None


def read_long_batch(start: bytes) -> BatchResponse | None:
    """Return the response of a batch that is too long to decode; None if the line is another one."""
    if not _BATCH_START.match(start):
        return None
    return _failed_batch(start, f"the response to the batch was longer than {MAX_LINE_BYTES >> 20} MiB")


def read_long_chunk(start: bytes) -> ChunkLine | None:
    """Return the chunk of a line that is too long to decode; None if the line is another one."""
    return ChunkLine(read_task_id(start), None) if _LONG_CHUNK_START.match(start) else None


def begins_as_response(start: bytes) -> bool:
    """Return whether a line that is too long to decode is a response, and not output."""
    return _LONG_RESPONSE_START.match(start) is not None


def _read_progress(task_id: str | None, content: msgspec.Raw) -> ProgressReport | None:
    """Return a progress report; None if it is invalid: it is logged like output, and the task continues."""
    try:
        progress = _decode_progress(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return ProgressReport(task_id, progress)


def _read_log(task_id: str | None, content: msgspec.Raw) -> LogLine | None:
    """Return output of one task; None if the line does not say so: it is output of all tasks of the child."""
    text = None if task_id is None else _read_text(bytes(content))
    return None if task_id is None or text is None else LogLine(task_id, text)


def _read_text(content: bytes) -> str | None:
    """Return a text of JSON, with a replacement for what is not UTF-8; None for another value."""
    if not content.startswith(b'"'):
        return None
    try:
        return _decode_text(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text: str = json.loads(content.decode(errors="replace"))
        return text.encode(errors="replace").decode()


def _read_value(content: bytes) -> object:
    """Return a short value of JSON; of a longer one the beginning of its bytes."""
    if len(content) > _MAX_VALUE_BYTES:
        return content[:_MAX_VALUE_BYTES]
    return json.loads(content.decode(errors="replace"))


def _read_plain_chunk(line: bytes) -> ChunkLine | None:
    """Return the chunk of a line that has nothing else; None for any other line."""
    try:
        check_depth(line)
        plain = _decode_chunk(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    value = bytes(plain.chunk)
    return ChunkLine(plain.task_id, value) if is_text(value) else None


def _read_chunk(line: bytes, task_id: str | None, value: bytes) -> ChunkLine | None:
    if task_id is None:
        return None
    return ChunkLine(task_id, value) if is_text(value) else _unusable_chunk(task_id, describe_not_utf8(line))


def _unusable_chunk(task_id: str, reason: str) -> ChunkLine:
    # No response: the child still works on the task.
    return ChunkLine(task_id, None, f"result_invalid: {reason}")


def _read_batch(line: bytes) -> BatchResponse | None:
    """Return the response to a batch; None if it is another object with a member `batch`, such as a line of metrics."""
    try:
        content = read_json(line, _BatchLine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read_invalid_batch(line, error)
    parts = [part for part in msgspec.structs.astuple(content.batch) if part is not msgspec.UNSET]
    task_ids = frozenset(part.task_id for part in parts if part.task_id is not None)
    if any(part.task_id is None for part in parts):
        return None
    failure = ChildResponse(
        error=content.error, retry=content.retry, retry_delay_s=content.retry_delay_s, error_class=content.error_class
    )
    if failure.error_text:
        return BatchResponse(task_ids, failure=failure)
    is_ascii = line.isascii()
    members = [
        part if is_ascii or is_text(bytes(part.result)) else InvalidResponse(part.task_id, "the result is not UTF-8")
        for part in parts
        if part.task_id is not None
    ]
    return BatchResponse(task_ids, members)


def _read_invalid_batch(line: bytes, error: Exception) -> BatchResponse | None:
    """Return the response to a batch if only some of its members are invalid; otherwise the batch has failed.

    None if the line is another object with a member `batch`.
    """
    is_examined = len(line) <= MAX_EXAMINED_BYTES and not isinstance(error, RecursionError)
    try:
        content = json.loads(line) if is_examined else {}
    except (ValueError, RecursionError):
        content = {}
    parts = content.get("batch")
    if content.get("error") or not content:
        reason = f"the response to the batch is not valid: {describe_error(error, line)}"
        return _failed_batch(line, reason) if _BATCH_START.match(line) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return None
    if not all(isinstance(part.get("task_id"), str) for part in parts):
        return None
    return BatchResponse(frozenset(part["task_id"] for part in parts), [_read_member(part) for part in parts])


def _read_member(content: dict[str, object]) -> ChildResponse | InvalidResponse:
    try:
        return read_json(json.dumps(content, allow_nan=False).encode(), ChildResponse)
    except (ValueError, RecursionError):  # also of msgspec, for half a character
        return InvalidResponse(str(content["task_id"]), describe_invalid(content))


def _failed_batch(line: bytes, reason: str) -> BatchResponse:
    found = (match[1] for match in islice(_TASK_ID.finditer(line), _MAX_MEMBERS))
    task_ids = frozenset(json.loads(task_id) for task_id in found if is_text(task_id))
    error = msgspec.Raw(msgspec.json.encode(f"result_invalid: {reason}"))
    kind = msgspec.Raw(msgspec.json.encode(ErrorClass.RESULT_INVALID))
    return BatchResponse(task_ids, failure=ChildResponse(error=error, error_class=kind), is_valid=False)


def _read_invalid(line: bytes, error: Exception, ready: Ready) -> InvalidResponse | ChunkLine | LogLine | None:
    """Return a line that is not valid JSON, because of NaN or half a character; None if it is not of the protocol."""
    if b'"task_id"' not in line:
        return None
    try:
        if isinstance(error, RecursionError) or len(line) > MAX_EXAMINED_BYTES:
            raise RecursionError
        content = json.loads(line)
    except (ValueError, RecursionError):
        return _read_damaged(line, error, ready)
    if not isinstance(content, dict) or not isinstance(content.get("task_id"), str):
        return None
    is_response = bool(content.keys() & _RESPONSE_MEMBERS)
    if not is_response and ready.sends_logs and isinstance(content.get("log"), str):
        return LogLine(content["task_id"], content["log"].encode(errors="replace").decode())
    if not is_response and "progress" in content:
        return None
    reason = describe_invalid(content)
    is_chunk = not is_response and ready.streams and "chunk" in content
    return _unusable_chunk(content["task_id"], reason) if is_chunk else InvalidResponse(content["task_id"], reason)


def _read_damaged(line: bytes, error: Exception, ready: Ready) -> InvalidResponse | ChunkLine | LogLine | None:
    """Return a line that no parser reads; None if it is not of the protocol."""
    # A line that begins like a response is one. If it were only logged, its task would hang until it times out.
    task_id = read_task_id(line)
    if task_id is None:
        return None
    if ready.sends_logs and (found := _LOG.match(line)):
        return LogLine(task_id, found[1].decode(errors="replace"))
    reason = f"the response is not valid JSON: {describe_error(error, line)}"
    if ready.streams and _LONG_CHUNK_START.match(line):
        return _unusable_chunk(task_id, reason)
    return InvalidResponse(task_id, reason)
