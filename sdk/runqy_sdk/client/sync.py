"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from runqy_sdk.client import operations
from runqy_sdk.client.base import Connection
from runqy_sdk.client.errors import ApiError, ServerUnreachable
from runqy_sdk.client.events import Following, chunk_of, refuse_deletion
from runqy_sdk.client.models import Event, Job, Logs, Outcome, Task, TaskOptions
from runqy_sdk.client.operations import (
    Call,
    Done,
    JobEncoder,
    Operation,
    Pause,
    Reply,
    Retries,
    advance,
    read_body,
    task_path,
)
from runqy_sdk.client.settings import find_server

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")


class Requests:
    """The requests of clients over a connection: of single operations, and of events."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = httpx2.Client(**connection.options)
        self._waiting_http = httpx2.Client(**connection.waiting_options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._waiting_http.close()

    def run(self, operation: Operation[T]) -> T:
        """Carry out an operation."""
        step = advance(operation)
        while not isinstance(step, Done):
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = advance(operation)
            else:
                step = advance(operation, self._ask(step))
        return step.value

    def follow(self, following: Following) -> Generator[Event, None, None]:
        """Yield events until their end, also over lost connections."""
        while not following.is_over:
            failure: ApiError | ServerUnreachable | None = None
            call = following.connect(self._connection.decode)
            try:
                with self._waiting_http.stream(**self._connection.request(call)) as response:
                    if response.status_code == 204:  # the end is known
                        return
                    if response.is_error:
                        response.read()
                        read_body(self._connection.reply(response))
                    for data in response.iter_bytes():
                        yield from following.receive(data)
            except httpx2.TransportError as error:
                failure = ServerUnreachable(self._connection.describe(error))
            except ApiError as error:
                failure = error
            if not following.is_over:
                time.sleep(following.lost(failure).seconds)

    def _ask(self, call: Call) -> Reply | ServerUnreachable:
        try:
            http = self._waiting_http if call.extra_timeout_s else self._http
            return self._connection.reply(http.request(**self._connection.request(call)))
        except httpx2.TransportError as error:
            return ServerUnreachable(self._connection.describe(error))


class Client:
    """A client of a runqy server. It keeps its connections, and may be shared by threads.

    The server is `url` with `api_key`, else RUNQY_SERVER_URL with RUNQY_API_KEY, else a profile that `runqy login`
    saved. `timeout` is that of one request, and `retry_for` the time for which a request is repeated while the server
    is unreachable or refuses it for a moment, from the first failure after its last sign of life; both are in seconds.
    A repeated request doubles no task.

    All methods raise ApiError, with a class for each code in `runqy_sdk.client.api_errors`, and ServerUnreachable.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 30.0,
        retry_for: float = 60.0,
    ) -> None:
        """Raise ConfigurationError."""
        self._retry_for = retry_for
        self._requests = Requests(Connection(find_server(url, api_key, profile), timeout, retry_for))
        self._run = self._requests.run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._requests.close()

    def enqueue(self, queue: str, payload: Any, *, task_id: str | None = None, **options: Unpack[TaskOptions]) -> Task:
        """Enqueue a task. `task_id` is a UUID of your own: the same call with it returns the same task for 24 hours.

        Raise TypeError or ValueError for a payload that is not JSON.
        """
        job = JobEncoder(options).encode(Job(payload, task_id))
        return self._run(operations.enqueue(queue, job, self._retry_for))

    def enqueue_many(self, queue: str, jobs: Iterable[Any], **options: Unpack[TaskOptions]) -> Iterator[Outcome]:
        """Enqueue any number of payloads, or Jobs, and yield an outcome for each, in order.

        They are sent in requests of up to 1,000 tasks as the outcomes are read: nothing is sent before the first is.
        """
        for chunk in operations.chunks_of(jobs, options):
            yield from self._run(operations.enqueue_chunk(queue, chunk, self._retry_for))

    def get(self, task_id: str, *, payload: bool = True) -> Task:
        """Return a task; with `payload=False` without its payload, which may be large. Raise TaskNotFound."""
        return self._run(operations.get(task_id, self._retry_for, payload=payload))

    def wait(self, task: Task | str, *, timeout: float | None = None) -> Task:
        """Return a task, or one with an id, once it has ended. Raise WaitTimeout after `timeout` seconds."""
        return self._run(operations.wait(id_of(task), timeout, self._retry_for))

    def result(self, task: Task | str, *, timeout: float | None = None) -> Any:
        """Return what a task's handler returned. Waits as `wait` does. Raise TaskFailed, WaitTimeout."""
        return self._run(operations.result(id_of(task), timeout, self._retry_for))

    def cancel(self, task: Task | str) -> None:
        """Cancel a task; a handler that runs is told. Raise TaskEnded."""
        self._run(operations.cancel(id_of(task), self._retry_for))

    def logs(self, task: Task | str, *, attempt: int | None = None) -> Logs:
        """Return what an attempt of a task printed, by default the last one that printed anything."""
        return self._run(operations.logs(id_of(task), attempt, self._retry_for))

    def events(self, task: Task | str, *, last_event_id: str = "") -> Generator[Event, None, None]:
        """Yield the events of a task until it has ended, also over lost connections. Raise TaskDeleted."""
        following = Following(task_path(id_of(task), "/events"), Retries(self._retry_for), last_event_id)
        yield from map(refuse_deletion, self._requests.follow(following))

    def stream(self, task: Task | str) -> Generator[Any, None, None]:
        """Yield what a task streams, from its first chunk on: texts or JSON values.

        Raise StreamRestarted if the task begins again meanwhile, TaskDeleted.
        """
        has_chunks = False
        with closing(self.events(task)) as events:
            for event in events:
                for chunk in chunk_of(event, has_chunks):
                    has_chunks = True
                    yield chunk


def id_of(task: Task | str) -> str:
    return task if isinstance(task, str) else task.id
