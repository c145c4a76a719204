"""Call a handler in a test as a worker would: `call(greet, {"name": "Ada"}).result`."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from runqy_sdk.calls import Call, Line, call_maker, respond
from runqy_sdk.context import join_chunks
from runqy_sdk.handlers import Handler, Loader, make_handler
from runqy_sdk.runner import load_value

OnLine = Callable[[Line], None]


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    result: Any
    """The result as a client reads it, after its way through JSON."""
    error: str | None
    """None if the task succeeded."""
    will_retry: bool = False
    retry_delay_s: float | None = None
    """The delay that `Retry` asked for; None: the queue's."""
    progress: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The reports of `ctx.progress`, oldest first."""
    chunks: list[Any] = field(default_factory=list[Any])
    """The parts of the result, as they were sent."""


def call(  # noqa: PLR0913 (what a task has)
    function: Callable[..., Any],
    payload: Any = None,
    *,
    loaded: Any = None,
    retry_on: tuple[type[BaseException], ...] = (),
    attempt: int = 1,
    max_retry: int = 3,
) -> Outcome:
    """Run a handler on a payload and return how the task ended. Whatever the handler raises is in the outcome.

    `loaded` is what `@load` would return; `retry_on` is only needed for functions that are not marked with `@task`.
    """
    handler = getattr(function, "runqy_handler", None) or make_handler(function, retry_on=retry_on)
    (outcome,) = run_once(handler, lambda: loaded, [payload], {"attempt": attempt, "max_retry": max_retry})
    return outcome


def call_batch(
    function: Callable[..., Any], payloads: list[Any], *, loaded: Any = None, attempt: int = 1, max_retry: int = 3
) -> list[Outcome]:
    """Run a function that is marked with `@batch` on payloads, and return how the task of each ended.

    If it raises an exception, it is called again for each of them alone, as by a worker.
    """
    members = {"attempt": attempt, "max_retry": max_retry}
    return run_once(function.runqy_handler, lambda: loaded, payloads, members)  # type: ignore[attr-defined]


def run_once(
    handler: Handler,
    loader: Loader | None,
    payloads: list[Any],
    members: dict[str, Any],
    *,
    on_line: OnLine = lambda line: None,
) -> list[Outcome]:
    """Load, and run one task, or a batch. Raise what `@load` raises. `members` are those of the worker's lines."""
    # What the worker receives is JSON, and so is what the handler gets from it.
    payloads = json.loads(json.dumps(payloads))
    ids = ["local"] if len(payloads) == 1 else [f"local-{number}" for number in range(1, len(payloads) + 1)]
    lines = [
        {"task_id": task_id, "queue": "local", "payload": payload, **members}
        for task_id, payload in zip(ids, payloads, strict=True)
    ]
    tasks = _LocalTasks(handler, lines, on_line)
    if handler.is_async:
        import asyncio  # noqa: PLC0415 (slow, and only coroutines need it)

        from runqy_sdk.async_runner import load_async, respond_async  # noqa: PLC0415

        async def load_and_run() -> None:  # on one event loop, which clients that `@load` opened belong to
            for call in tasks.calls(await load_async(loader)):
                tasks.receive(await respond_async(call))

        asyncio.run(load_and_run())
    else:
        for call in tasks.calls(load_value(loader)):
            tasks.receive(respond(call))
    return [tasks.outcome(task_id) for task_id in ids]


class _LocalTasks:
    """Keeps what tasks send, and runs the members of a failed batch singly, as a worker does."""

    def __init__(self, handler: Handler, lines: list[Line], on_line: OnLine) -> None:
        self._handler = handler
        self._lines = lines
        self._on_line = on_line
        self._received: list[Line] = []

    def calls(self, loaded: Any) -> Generator[Call, None, None]:
        make_call = call_maker(self._handler, loaded=loaded, send=self.receive, is_streaming=True)
        for lines in [self._lines, *[[line] for line in self._lines]]:
            ended = {line["task_id"] for line in self._received if "result" in line}
            if lines and not {line["task_id"] for line in lines} <= ended:
                yield make_call(lines[0] if self._handler.batch is None else {"batch": lines})

    def receive(self, text: str) -> None:
        for line in map(json.loads, text.splitlines()):
            self._received.append(line)
            self._on_line(line)

    def outcome(self, task_id: str) -> Outcome:
        lines = [line for line in self._received if line.get("task_id") == task_id]
        (response,) = [line for line in lines if "result" in line]
        chunks = [line["chunk"] for line in lines if "chunk" in line]
        is_joined = response["result"] is None and response["error"] is None
        return Outcome(
            result=join_chunks(chunks) if is_joined else response["result"],
            error=response["error"],
            will_retry=response["retry"],
            retry_delay_s=response.get("retry_delay_s"),
            progress=[line["progress"] for line in lines if "progress" in line],
            chunks=chunks,
        )
