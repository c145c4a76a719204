"""The client for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
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
    Chunks,
    Done,
    EncodedJob,
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
from runqy_sdk.client.sync import id_of

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")


class AsyncClient:
    """The methods of Client, as coroutines and asynchronous iterators.

    It takes the arguments of Client, and raises the same errors. Any number of coroutines may share one, on one event
    loop; waits and events take no connection from other requests. Use it with `async with`, or call `aclose`.
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
        self._connection = Connection(find_server(url, api_key, profile), timeout, retry_for)
        self._http = httpx2.AsyncClient(**self._connection.options)
        self._waiting_http = httpx2.AsyncClient(**self._connection.waiting_options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._waiting_http.aclose()

    async def enqueue(
        self, queue: str, payload: Any, *, task_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> Task:
        """Enqueue a task. `task_id` is a UUID of your own: the same call with it returns the same task for 24 hours.

        Raise TypeError or ValueError for a payload that is not JSON.
        """
        job = JobEncoder(options).encode(Job(payload, task_id))
        return await self._run(operations.enqueue(queue, job, self._connection.retry_for))

    async def enqueue_many(
        self, queue: str, jobs: Iterable[Any] | AsyncIterable[Any], **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Outcome]:
        """Enqueue any number of payloads, or Jobs, and yield an outcome for each, in order.

        They may come from an asynchronous iterator. They are sent in requests of up to 1,000 tasks as the outcomes are
        read: nothing is sent before the first is.
        """
        async for chunk in _chunks_of(jobs, options):
            for outcome in await self._run(operations.enqueue_chunk(queue, chunk, self._connection.retry_for)):
                yield outcome

    async def get(self, task_id: str, *, payload: bool = True) -> Task:
        """Return a task; with `payload=False` without its payload, which may be large. Raise TaskNotFound."""
        return await self._run(operations.get(task_id, self._connection.retry_for, payload=payload))

    async def wait(self, task: Task | str, *, timeout: float | None = None) -> Task:
        """Return a task, or one with an id, once it has ended. Raise WaitTimeout after `timeout` seconds."""
        return await self._run(operations.wait(id_of(task), timeout, self._connection.retry_for))

    async def result(self, task: Task | str, *, timeout: float | None = None) -> Any:
        """Return what a task's handler returned. Waits as `wait` does. Raise TaskFailed, WaitTimeout."""
        return await self._run(operations.result(id_of(task), timeout, self._connection.retry_for))

    async def cancel(self, task: Task | str) -> None:
        """Cancel a task; a handler that runs is told. Raise TaskEnded."""
        await self._run(operations.cancel(id_of(task), self._connection.retry_for))

    async def logs(self, task: Task | str, *, attempt: int | None = None) -> Logs:
        """Return what an attempt of a task printed, by default the last one that printed anything."""
        return await self._run(operations.logs(id_of(task), attempt, self._connection.retry_for))

    async def events(self, task: Task | str, *, last_event_id: str = "") -> AsyncGenerator[Event, None]:
        """Yield the events of a task until it has ended, also over lost connections. Raise TaskDeleted."""
        following = Following(task_path(id_of(task), "/events"), Retries(self._connection.retry_for), last_event_id)
        while not following.is_over:
            failure: ApiError | ServerUnreachable | None = None
            try:
                async with self._waiting_http.stream(**self._connection.request(following.connect())) as response:
                    if response.status_code == 204:  # the end is known
                        return
                    if response.is_error:
                        await response.aread()
                        read_body(self._connection.reply(response))
                    async for data in response.aiter_bytes():
                        for event in following.receive(data):
                            yield refuse_deletion(event)
            except httpx2.TransportError as error:
                failure = ServerUnreachable(self._connection.describe(error))
            except ApiError as error:
                failure = error
            if not following.is_over:
                await asyncio.sleep(following.lost(failure).seconds)

    async def stream(self, task: Task | str) -> AsyncGenerator[Any, None]:
        """Yield what a task streams, from its first chunk on: texts or JSON values.

        Raise StreamRestarted if the task begins again meanwhile, TaskDeleted.
        """
        has_chunks = False
        async with aclosing(self.events(task)) as events:
            async for event in events:
                for chunk in chunk_of(event, has_chunks):
                    has_chunks = True
                    yield chunk

    async def _run(self, operation: Operation[T]) -> T:
        step = advance(operation)
        while not isinstance(step, Done):
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = advance(operation)
            else:
                step = advance(operation, await self._ask(step))
        return step.value

    async def _ask(self, call: Call) -> Reply | ServerUnreachable:
        try:
            http = self._waiting_http if call.extra_timeout_s else self._http
            return self._connection.reply(await http.request(**self._connection.request(call)))
        except httpx2.TransportError as error:
            return ServerUnreachable(self._connection.describe(error))


async def _chunks_of(
    items: Iterable[Any] | AsyncIterable[Any], options: TaskOptions
) -> AsyncIterator[list[EncodedJob]]:
    if isinstance(items, Iterable):
        for chunk in operations.chunks_of(items, options):
            yield chunk
        return
    chunks = Chunks(options)
    async for item in items:
        if full := chunks.add(item):
            yield full
    if left := chunks.take():
        yield left
