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
from runqy_sdk.client.events import Following, chunk_of
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
    advance,
    read_body,
)
from runqy_sdk.client.sync import id_of, to_reply

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")


class AsyncClient:
    """The methods of Client, as coroutines and asynchronous iterators. See there."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 30.0,
        retry_for: float = 60.0,
    ) -> None:
        self._connection = Connection(url, api_key, profile, timeout, retry_for)
        self._http = httpx2.AsyncClient(**self._connection.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def enqueue(
        self, queue: str, payload: Any, *, task_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> Task:
        job = JobEncoder(options).encode(Job(payload, task_id))
        return await self._run(operations.enqueue(queue, job, self._connection.retry_for))

    async def enqueue_many(
        self, queue: str, jobs: Iterable[Any] | AsyncIterable[Any], **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Outcome]:
        async for chunk in _chunks_of(jobs, options):
            for outcome in await self._run(operations.enqueue_chunk(queue, chunk, self._connection.retry_for)):
                yield outcome

    async def get(self, task_id: str) -> Task:
        return await self._run(operations.get(task_id, self._connection.retry_for))

    async def wait(self, task: Task | str, *, timeout: float | None = None) -> Task:
        return await self._run(operations.wait(id_of(task), timeout, self._connection.retry_for))

    async def result(self, task: Task | str, *, timeout: float | None = None) -> Any:
        return await self._run(operations.result(id_of(task), timeout, self._connection.retry_for))

    async def cancel(self, task: Task | str) -> None:
        await self._run(operations.cancel(id_of(task), self._connection.retry_for))

    async def logs(self, task: Task | str, *, attempt: int | None = None) -> Logs:
        return await self._run(operations.logs(id_of(task), attempt, self._connection.retry_for))

    async def events(self, task: Task | str, *, last_event_id: str = "") -> AsyncGenerator[Event, None]:
        following = Following(self._connection.retry_for, last_event_id)
        path = operations.task_path(id_of(task), "/events")
        while not following.is_over:
            failure: ApiError | ServerUnreachable | None = None
            try:
                async with self._http.stream("GET", path, headers=following.connect()) as response:
                    if response.status_code == 204:  # the end is known
                        return
                    if response.is_error:
                        await response.aread()
                        read_body(to_reply(response))
                    async for data in response.aiter_bytes():
                        for event in following.receive(data):
                            yield event
            except httpx2.TransportError as error:
                failure = ServerUnreachable(self._connection.describe(error))
            except ApiError as error:
                failure = error
            if not following.is_over:
                await asyncio.sleep(following.lost(failure).seconds)

    async def stream(self, task: Task | str) -> AsyncGenerator[Any, None]:
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
            return to_reply(await self._http.request(**self._connection.request(call)))
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
