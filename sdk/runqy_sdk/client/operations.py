"""What clients do, without I/O: each operation yields calls and pauses, and the client carries them out."""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from runqy_sdk.client.errors import (
    ApiError,
    ServerUnreachable,
    TaskFailed,
    WaitTimeout,
    make_error,
    read_error,
)
from runqy_sdk.client.models import Job, Logs, Outcome, Task, TaskOptions, read_logs, read_task

T = TypeVar("T")

WAIT_S = 30.0
"""How long one request waits for the end of a task."""
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 10.0
"""The pauses before requests are repeated, which double each time."""
CHUNK_TASKS, CHUNK_BYTES = 1000, 4 << 20
"""The size of a request of `enqueue_many`."""


_OPTIONS = frozenset(TaskOptions.__annotations__)

# One encoder: `json.dumps` makes one for each call that has options.
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """Return JSON. Raise TypeError, ValueError."""
    return _encoder.encode(value).encode()


def decode(text: str | bytes) -> Any:
    """Return the value of JSON. Raise ValueError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python reads no integer of more than 4,300 digits, unless asked to
        return json.loads(text, parse_int=_parse_int)


_SHORT_DIGITS = 600
"""How many digits `int` reads whatever limit a program sets."""


def _parse_int(digits: str) -> int:
    if len(digits) <= _SHORT_DIGITS:
        return int(digits)
    if digits.startswith("-"):
        return -_parse_int(digits[1:])
    half = len(digits) // 2  # a million digits take two seconds; digit by digit it would be minutes
    shift: int = 10**half
    return _parse_int(digits[:-half]) * shift + _parse_int(digits[-half:])


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra_timeout_s: float = 0.0
    """How much longer than that of others its response may be silent, because the server waits for something.

    Below 0, connecting takes no longer either.
    """


@dataclass(frozen=True)
class Pause:
    """A time to wait."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """A response. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    parse: Callable[[bytes], Any] = decode

    def decode(self) -> Any:
        """Return the JSON of the body; None if it is none."""
        try:
            return self.parse(self.body)
        except ValueError:
            return None


Operation = Generator[Call | Pause, Reply, T]
"""Its caller sends the reply of each call, or throws ServerUnreachable into it, and continues after a pause."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of an operation."""

    value: T


def advance(operation: Operation[T], answer: Reply | ServerUnreachable | None = None) -> Call | Pause | Done[T]:
    """Continue an operation with the answer to its last call, and return its next step."""
    try:
        if isinstance(answer, ServerUnreachable):
            return operation.throw(answer)
        return next(operation) if answer is None else operation.send(answer)
    except StopIteration as end:
        return Done(end.value)


class Retries:
    """The pauses of one operation, until its time is over.

    The time begins with the first failure after the server's last sign of life: before it, a server that was asked to
    wait is silent for longer than that.
    """

    def __init__(self, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self.reset()

    def reset(self) -> None:
        """Begin anew after a sign of life."""
        self._ends_s: float | None = None
        self._delay_s = FIRST_DELAY_S

    def next_pause(self, error: ApiError | ServerUnreachable | None) -> Pause:
        """Return the pause before the request is repeated. Raise the error when the time is over.

        Without one the server has ended a response early, as it does when it restarts.
        """
        if self._ends_s is None:
            self._ends_s = time.monotonic() + self._retry_for_s
        asked = error.retry_after if isinstance(error, ApiError) else None
        # At least half of the delay: clients that failed together must not come back together.
        seconds = max(asked or 0.0, self._delay_s * random.uniform(0.5, 1.0))  # noqa: S311 (not for secrets)
        self._delay_s = min(self._delay_s * 2, MAX_DELAY_S)
        if time.monotonic() + seconds > self._ends_s:
            raise error or ServerUnreachable("the server ended the response")
        return Pause(seconds)


def send(call: Call, retries: Retries) -> Operation[Any]:
    """Return the JSON of a call's response. The call is repeated, so it must be one that may be.

    Raise ApiError, ServerUnreachable.
    """
    while True:
        error: ApiError | ServerUnreachable
        try:
            return read_body((yield call))
        except ServerUnreachable as unreachable:
            error = unreachable
        except ApiError as refusal:
            if not refusal.is_temporary:
                raise
            error = refusal
        yield retries.next_pause(error)


def read_body(reply: Reply) -> Any:
    """Return the JSON of a response. Raise ApiError."""
    body = reply.decode()
    if reply.status >= 400:
        raise read_error(reply.status, reply.headers, body, reply.body.decode(errors="replace"))
    if not isinstance(body, dict):
        raise ApiError("the response is no JSON object: is this the URL of a runqy server?", status=reply.status)
    return cast("dict[str, Any]", body)


def enqueue(queue: str, job: EncodedJob, retry_for_s: float) -> Operation[Task]:
    body = b'{"queue":%b,%b' % (encode(queue), job.body[1:])
    return read_task((yield from send(Call("POST", "/queue/add", body=body), Retries(retry_for_s))))


def get(task_id: str, retry_for_s: float, *, payload: bool = True) -> Operation[Task]:
    call = Call("GET", task_path(task_id), query={} if payload else {"payload": "false"})
    return read_task((yield from send(call, Retries(retry_for_s))))


def wait(task_id: str, timeout_s: float | None, retry_for_s: float) -> Operation[Task]:
    """Return a task once it has ended. Raise WaitTimeout, ApiError, ServerUnreachable."""
    body = yield from await_end(
        task_path(task_id), timeout_s, Retries(retry_for_s), has_ended=lambda body: read_task(body).has_ended
    )
    task = None if body is None else read_task(body)
    if task is None or not task.has_ended:
        raise WaitTimeout(task_id, timeout_s or 0.0)
    return task


def await_end(
    path: str,
    timeout_s: float | None,
    retries: Retries,
    *,
    has_ended: Callable[[Any], bool],
    query: Mapping[str, str] | None = None,
) -> Operation[Any]:
    """Return the response of a path once it says that something has ended; after `timeout_s` the last response.

    It is None if there was none. Raise ApiError, ServerUnreachable.
    """
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    waits, body = True, None
    while True:
        left_s = WAIT_S if ends_s is None else max(min(ends_s - time.monotonic(), WAIT_S), 0.0)
        seconds = left_s if waits else 0.0
        pause = None
        wait = {"wait": f"{seconds:.0f}"} if seconds >= 1 else {}
        try:
            body = read_body((yield Call("GET", path, {**(query or {}), **wait}, extra_timeout_s=seconds)))
        except ServerUnreachable as error:
            pause = retries.next_pause(error)
        except ApiError as error:
            if not error.is_temporary:
                raise
            # The server has no place for another request that waits: ask again and again instead.
            waits = error.received_code != "too_many_waiters"
            pause = Pause(1.0) if not waits else retries.next_pause(error)
        else:
            if has_ended(body):
                return body
            retries.reset()
            pause = None if wait else Pause(1.0)
        left_s = math.inf if ends_s is None else ends_s - time.monotonic()
        if left_s <= 0:
            return body
        if pause is not None:
            yield Pause(min(pause.seconds, left_s))


def result(task_id: str, timeout_s: float | None, retry_for_s: float) -> Operation[Any]:
    """Return what the handler of a task returned. Raise TaskFailed, and the errors of `wait`."""
    task = yield from wait(task_id, timeout_s, retry_for_s)
    if task.state != "completed":
        raise TaskFailed(task)
    return task.result


def cancel(task_id: str, retry_for_s: float) -> Operation[None]:
    yield from send(Call("DELETE", f"/api/cli/tasks/{quote(task_id, safe='')}"), Retries(retry_for_s))


def logs(task_id: str, attempt: int | None, retry_for_s: float) -> Operation[Logs]:
    task = yield from get(task_id, retry_for_s)
    path = f"/api/cli/queues/{quote(task.queue, safe='')}/tasks/{quote(task_id, safe='')}/logs"
    query = {} if attempt is None else {"attempt": str(attempt)}
    return read_logs((yield from send(Call("GET", path, query), Retries(retry_for_s))))


def enqueue_chunk(queue: str, jobs: list[EncodedJob], retry_for_s: float) -> Operation[list[Outcome]]:
    """Return the outcomes of jobs, in order. Jobs that were refused for a moment are repeated.

    Raise ApiError for the request as a whole, ServerUnreachable.
    """
    outcomes: dict[int, Outcome] = {}
    left = list(range(len(jobs)))
    retries = Retries(retry_for_s)
    while left:
        body = b'{"queue":%b,"jobs":[%b]}' % (encode(queue), b",".join([jobs[index].body for index in left]))
        try:
            answer = yield from send(Call("POST", "/queue/add-batch", body=body), retries)
        except ApiError as error:
            if error.received_code not in ("batch_refused", "batch_conflict"):
                raise
            answer = _outcomes_of_refusal(error, len(left))
        existing = set(answer["existing"])
        temporary: list[int] = []
        refusal: ApiError | None = None
        for position, index in enumerate(left):
            detail, task_id = answer["errors"][position], answer["task_ids"][position]
            error_ = None if detail is None else make_error(answer["codes"][position] or "", detail)
            outcomes[index] = Outcome(task_id or jobs[index].task_id, error_, position in existing)
            if error_ is not None and error_.is_temporary:
                temporary.append(index)
                refusal = error_
        if len(temporary) < len(left):
            retries.reset()
        left = temporary
        if refusal is not None:
            try:
                yield retries.next_pause(refusal)
            except ApiError:
                break  # the time is over: the outcomes say so
    return [outcomes[index] for index in range(len(jobs))]


def _outcomes_of_refusal(error: ApiError, count: int) -> dict[str, Any]:
    """Return the answer to a batch of which no job became a task."""
    details = reasons_of_refusal(error, count)
    codes = ["task_exists" if error.received_code == "batch_conflict" else "invalid_request"] * count
    return {"errors": details, "codes": codes, "task_ids": [None] * count, "existing": []}


def reasons_of_refusal(error: ApiError, count: int) -> list[str]:
    """Return why each job of a request was refused. Its error names the first hundred."""
    details = [f"{error}"] * count
    for text in error.errors:
        position, _, detail = text.partition("]: ")
        number = position.removeprefix("jobs[")
        if detail and number.isdecimal() and int(number) < count:
            details[int(number)] = detail
    return details


@dataclass(frozen=True)
class EncodedJob:
    """A task that is to be enqueued."""

    task_id: str
    body: bytes
    """A JSON object."""


class JobEncoder:
    """Encodes jobs, with options that they share."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._shared = _encode_options(options)

    def encode(self, item: Any) -> EncodedJob:
        """Return a payload, or a Job. Raise TypeError, ValueError."""
        if not isinstance(item, Job):
            item = Job(item)
        task_id = item.task_id or str(uuid.uuid4())
        options = _encode_options({**self._options, **item.options}) if item.options else self._shared
        return EncodedJob(task_id, b'{"data":%b,"task_id":%b%b}' % (encode(item.payload), encode(task_id), options))


class Chunks:
    """Divides jobs into requests."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._encoder = JobEncoder(options)
        self._jobs: list[EncodedJob] = []
        self._size = 0

    def add(self, item: Any) -> list[EncodedJob] | None:
        """Add a payload or a Job. Return the jobs of a request that is full."""
        job = self._encoder.encode(item)
        full = None
        if self._jobs and (len(self._jobs) >= CHUNK_TASKS or self._size + len(job.body) > CHUNK_BYTES):
            full = self.take()
        self._jobs.append(job)
        self._size += len(job.body)
        return full

    def take(self) -> list[EncodedJob]:
        jobs, self._jobs, self._size = self._jobs, [], 0
        return jobs


def task_path(task_id: str, suffix: str = "") -> str:
    return f"/queue/{quote(task_id, safe='')}{suffix}"


def _encode_options(options: Mapping[str, Any]) -> bytes:
    """Return the members of a JSON object, each after a comma."""
    if unknown := sorted(options.keys() - _OPTIONS):
        raise TypeError(f"{unknown[0]!r} is no option of a task; options are {', '.join(sorted(_OPTIONS))}")
    return b"".join(
        b",%b:%b" % (encode(name), encode(_to_json(name, value)))
        for name, value in options.items()
        if value is not None
    )


def _to_json(name: str, value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name}: {value!r} has no time zone")
        return value.isoformat()
    return value


def chunks_of(items: Iterable[Any], options: Mapping[str, Any]) -> Iterable[list[EncodedJob]]:
    """Yield the jobs of each request."""
    chunks = Chunks(options)
    for item in items:
        full = chunks.add(item)
        if full:
            yield full
    if left := chunks.take():
        yield left
