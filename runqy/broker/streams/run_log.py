"""The log of ended attempts: a bounded stream of each Redis queue, from which maintenance moves them to the database.

The scripts that end an attempt append to it (`lua/parts/log_run.lua`). Any worker can write there, so entries are
validated when they are read.
"""

from collections.abc import Sequence
from functools import partial

import msgspec

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number, read_time_ns, replace_nul
from runqy.broker.request import Request
from runqy.broker.scripts import command, script
from runqy.broker.states import RunOutcome
from runqy.core.telemetry.tracing import REQUEST_ID

MAX_ENTRIES = 20_000
"""The length at which a stream drops its oldest entries. `log_run.lua` has the number too."""
MAX_ENTRY_BYTES = 2304
PAYLOAD_MAX_BYTES, RESULT_MAX_BYTES, ERROR_MAX_BYTES = 400, 400, 700
"""The sizes of excerpts. With everything else in it, an entry stays below MAX_ENTRY_BYTES."""
TRACEBACK_MAX_BYTES = 1500
"""The size of a traceback's excerpt, if payload and ids are short enough."""

CLASS_MAX_BYTES = 200
"""The longest import path of an exception. A cut one would name nothing."""

_ID_MAX_BYTES, _RUN_ID_MAX_BYTES, _COMMIT_MAX_BYTES, _REQUEST_ID_MAX_BYTES = 255, 64, 64, 128
_OLDEST_NS, _NEWEST_NS = 30 * 86_400 * 10**9, 3600 * 10**9
"""How long before and after now an attempt may have ended. Other times are invalid or forged."""
_TRACEBACK = "Traceback (most recent call last):"
_ELLIPSIS = "…"
_FIRST_LINE_MAX_CHARS = 100
_CUT_TRACEBACK = f"{_TRACEBACK}\n{_ELLIPSIS}\n"

EntryId = tuple[int, int]
"""The id of an entry. Entries of a stream are in its order."""


class EndedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that ended, or a task that ended without one. Texts and bytes are excerpts."""

    task_id: str
    run_id: str
    """The lease token of the run. Without a run, a text that is the same each time this end is reported."""
    outcome: RunOutcome
    is_final: bool
    """Whether the task ended with it."""
    ended_ns: int
    attempt: int = 0
    """0 if the task ended without a run."""
    had_attempts: bool = False
    """The task ended without a run, but had runs before."""
    enqueued_ns: int | None = None
    due_ns: int | None = None
    """Since when the task had been pending."""
    started_ns: int | None = None
    worker_id: str = ""
    commit: str = ""
    request_id: str = ""
    error: str = ""
    """The error's text, which may hold a traceback."""
    error_class: str = ""
    """The import path of the exception, if the handler's SDK sent it."""
    payload: bytes | None = None
    """None if it is hidden or unknown. The same holds for the result."""
    result: bytes | None = None
    is_foreign: bool = False


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the history records about a run that Redis does not know."""

    commit: str = ""
    hides_payload: bool = False
    """Leave out payload and result."""
    started_ns: int = 0
    """When it began, if that was later than its dequeue."""
    outcome: RunOutcome | None = None
    """None: the default of the script that ends it."""
    error_class: str = ""


NO_INFO = RunInfo()


class RunEntry(msgspec.Struct, frozen=True):
    """An entry of a stream."""

    id: EntryId
    run: EndedRun | None
    """None if the entry is invalid."""


class StreamPage(msgspec.Struct, frozen=True):
    """The oldest entries of a stream."""

    entries: Sequence[RunEntry]
    is_stream: bool = True
    """False if the key is of another type."""


class StreamStatus(msgspec.Struct, frozen=True):
    """What a stream holds, and how much was ever appended to it."""

    length: int
    """The number of entries that are not in the database yet."""
    appended: int
    """The number of entries appended since Redis last lost its data."""


class _Details(msgspec.Struct, array_like=True, gc=False):
    """What the caller of a script knows about a run."""

    commit: str = ""
    request_id: str = ""
    error: str = ""
    payload: bytes | None = None
    result: bytes | None = None
    started_ns: int = 0
    error_class: str = ""


_encode_details = msgspec.msgpack.Encoder().encode
_decode_details = msgspec.msgpack.Decoder(_Details).decode
_NO_DETAILS = _encode_details(())
_OUTCOMES = {outcome.value.encode(): outcome for outcome in RunOutcome}


def make_details(
    message: TaskMessage | None, info: RunInfo = NO_INFO, *, result: bytes | None = None, error: str = ""
) -> bytes:
    """Return what a script appends to the log about a run: excerpts of bounded size."""
    request_id, payload = "", None
    if message is not None:
        headers = message.headers
        if headers and (found := headers.get(REQUEST_ID)):
            request_id = _cut_text(found, _REQUEST_ID_MAX_BYTES)
        if not info.hides_payload:
            payload = message.payload[:PAYLOAD_MAX_BYTES]
    shown_result = None if result is None or payload is None else result[:RESULT_MAX_BYTES]
    commit = info.commit[:_COMMIT_MAX_BYTES]
    room = _room_for_traceback(message, payload, commit, request_id) if error and message is not None else 0
    shown_error = cut_error(error, traceback_max_bytes=max(room, ERROR_MAX_BYTES)) if error else ""
    return _encode_details((commit, request_id, shown_error, payload, shown_result, info.started_ns, info.error_class))


def read_error(details: bytes, *, max_bytes: int) -> tuple[str, str]:
    """Return the error in what `make_details` returned, cut to a size, and its class. Raise ValueError for anything
    else.
    """
    if not details:
        return "", ""
    found = _decode_details(details)
    return cut_error(found.error, traceback_max_bytes=max_bytes), found.error_class[:CLASS_MAX_BYTES]


def _room_for_traceback(message: TaskMessage, payload: bytes | None, commit: str, request_id: str) -> int:
    """Return how many bytes of a traceback fit into an entry. The other parts leave it what they do not need."""
    spare = PAYLOAD_MAX_BYTES + _ID_MAX_BYTES + _COMMIT_MAX_BYTES + _REQUEST_ID_MAX_BYTES
    used = len(payload or b"") + len(message.id.encode()) + len(commit) + len(request_id.encode())
    return min(ERROR_MAX_BYTES + spare - used, TRACEBACK_MAX_BYTES)


def read_runs(queue: str, *, limit: int, now_ns: int) -> Request[StreamPage]:
    """Return the oldest entries of a Redis queue's stream, in order. Their times are checked against `now_ns`."""
    key = QueueKeys.of(queue).runs
    read = script("read_entries")(stream=key, start="-", limit=limit, max_bytes=2 * MAX_ENTRY_BYTES)
    return Request((read,), partial(_parse_page, now_ns), is_bulky=True, tolerates_wrong_types=True)


def remove_runs(queue: str, last: EntryId) -> Request[StreamStatus]:
    """Remove the entries of a stream up to the last one that was stored; return the status of the rest."""
    call = script("remove_runs")(runs=QueueKeys.of(queue).runs, next_id=f"{last[0]}-{last[1] + 1}")
    return Request((call,), _parse_status, is_repeatable=True)


def delete_stream(queue: str) -> Request[None]:
    """Delete the key of a stream, because it is of another type."""
    key = QueueKeys.of(queue).runs
    return Request((command("UNLINK", key, key=key),), lambda _: None, is_repeatable=True)


def _parse_page(now_ns: int, replies: Sequence[Reply]) -> StreamPage:
    if replies[0] is None:
        return StreamPage((), is_stream=False)
    entries = []
    for entry_id, values in replies[0]:
        milliseconds, _, number = entry_id.decode().partition("-")
        entries.append(RunEntry((int(milliseconds), int(number)), _read_run(values, now_ns)))
    return StreamPage(entries)


def _parse_status(replies: Sequence[Reply]) -> StreamStatus:
    length, appended = replies[0]
    return StreamStatus(length, appended)


def _read_run(values: Sequence[bytes], now_ns: int) -> EndedRun | None:
    """Return the run of an entry; None if our scripts cannot have appended it."""
    if len(values) != 2 or values[0] != b"run":
        return None
    try:
        # Ten splits: the last value, the details, may contain NUL.
        return _build_run(values[1].split(b"\0", 10), now_ns)
    except (ValueError, KeyError, RecursionError):  # msgspec.DecodeError and UnicodeDecodeError are ValueErrors
        return None


def _build_run(values: Sequence[bytes], now_ns: int) -> EndedRun:
    """Return the run from the values that `log_run.lua` appended. Raise ValueError or KeyError for invalid ones."""
    outcome, is_final, ended, attempts, enqueued, due, started, worker, task_id, run_id, encoded_details = values
    details = _decode_details(encoded_details or _NO_DETAILS)
    ended_ns, attempt = read_number(ended), read_number(attempts or b"0")
    if ended_ns is None or not now_ns - _OLDEST_NS <= ended_ns <= now_ns + _NEWEST_NS:
        raise ValueError("ended")
    if attempt is None or attempt > 2**31 - 1:
        raise ValueError("attempt")
    started_ns = _time_ns(started, ended_ns)
    is_without_attempt = is_final == b"2"
    if started_ns is not None and started_ns < details.started_ns <= ended_ns:
        started_ns = details.started_ns
    return EndedRun(
        task_id=_text(task_id, _ID_MAX_BYTES, is_required=True),
        run_id=_text(run_id, _RUN_ID_MAX_BYTES, is_required=True),
        outcome=_OUTCOMES[outcome],
        is_final=is_final == b"1" or is_without_attempt,
        ended_ns=ended_ns,
        attempt=0 if is_without_attempt else attempt,
        had_attempts=is_without_attempt and attempt > 0,
        enqueued_ns=_time_ns(enqueued, ended_ns),
        due_ns=_time_ns(due, ended_ns),
        started_ns=started_ns,
        worker_id=_text(worker, _ID_MAX_BYTES),
        commit=_text(details.commit.encode(), _COMMIT_MAX_BYTES),
        request_id=_text(details.request_id.encode(), _REQUEST_ID_MAX_BYTES),
        error=replace_nul(details.error),
        error_class=_text(details.error_class.encode(), CLASS_MAX_BYTES),
        payload=details.payload,
        result=details.result,
    )


def _text(data: bytes, max_bytes: int, *, is_required: bool = False) -> str:
    """Return an id as text. Raise ValueError if it is too long, missing or cannot be stored."""
    if len(data) > max_bytes or b"\0" in data or (is_required and not data):
        raise ValueError("text")
    return data.decode()


def _time_ns(value: bytes, ended_ns: int) -> int | None:
    """Return a time, at latest the end of the run; None if it is missing, from before 2001 or an hour after the end."""
    time = read_time_ns(value)
    if time is None:
        return None
    return min(time, ended_ns) if 10**18 <= time <= ended_ns + _NEWEST_NS else None


def _cut_text(text: str, max_bytes: int) -> str:
    """Return the start of a text. Characters that cannot be encoded are replaced."""
    if len(text) <= max_bytes and text.isascii():
        return text
    return text[:max_bytes].encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


def cut_error(text: str, *, traceback_max_bytes: int = TRACEBACK_MAX_BYTES) -> str:
    """Return an excerpt of an error, with `…` for what is missing: the end of a message, but the start of a traceback
    after its first line, and after the one before it that says how a process ended.

    The length of an excerpt depends on nothing but the message, so that equal errors stay in one group.
    """
    if len(text) * 4 <= ERROR_MAX_BYTES and text.isascii():
        return text
    max_bytes = traceback_max_bytes if _TRACEBACK in text else ERROR_MAX_BYTES
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return data.decode()
    if _TRACEBACK not in text:
        return data[: max_bytes - len(_ELLIPSIS.encode())].decode("utf-8", "ignore") + _ELLIPSIS
    first = text.partition("\n")[0][:_FIRST_LINE_MAX_CHARS]
    start = _CUT_TRACEBACK if _TRACEBACK in first else f"{first}\n{_CUT_TRACEBACK}"
    return start + data[len(start.encode("utf-8", "replace")) - max_bytes :].decode("utf-8", "ignore")


def is_cut(error: str) -> bool:
    """Return whether the text of an error is an excerpt by `cut_error`."""
    is_long = len(error.encode("utf-8", "replace")) > ERROR_MAX_BYTES - 2 * len(_ELLIPSIS.encode())
    return _CUT_TRACEBACK in error or (is_long and error.endswith(_ELLIPSIS))
