"""Call a handler in a test as a worker would: `call(greet, {"name": "Ada"}).result`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runqy_sdk.context import Context
from runqy_sdk.handlers import Handler, Loader, make_handler
from runqy_sdk.runner import load_value, respond


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
    progress: list[dict[str, Any]] = field(default_factory=list)
    """The reports of `ctx.progress`, oldest first."""


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
    return run_once(handler, lambda: loaded, payload, {"attempt": attempt, "max_retry": max_retry})


def run_once(  # noqa: PLR0913 (for the command line as well)
    handler: Handler,
    loader: Loader | None,
    payload: Any,
    members: dict[str, Any],
    *,
    on_message: Callable[[dict[str, Any]], None] | None = None,
    on_chunk: Callable[[Any], None] | None = None,
) -> Outcome:
    """Load, and run one task. Raise what `@load` raises. `members` are those of the worker's line."""
    messages: list[dict[str, Any]] = []
    line = {"task_id": "local", "queue": "local", **members}
    # What the worker receives is JSON, and so is what the handler gets from it.
    payload = json.loads(json.dumps(payload))

    def send(message: dict[str, Any]) -> None:
        messages.append(json.loads(json.dumps(message)))
        if on_message:
            on_message(message)

    def make_context(loaded: Any) -> Context:
        return Context(line, loaded=loaded, send=send, on_chunk=on_chunk)

    if handler.is_async:
        import asyncio  # noqa: PLC0415 (slow, and only coroutines need it)

        from runqy_sdk.async_runner import load_async, respond_async  # noqa: PLC0415

        async def load_and_run() -> str:  # on one event loop, which clients that `@load` opened belong to
            return await respond_async(make_context(await load_async(loader)), handler, payload)

        response = json.loads(asyncio.run(load_and_run()))
    else:
        response = json.loads(respond(make_context(load_value(loader)), handler, payload))
    return Outcome(
        result=response["result"],
        error=response["error"],
        will_retry=response["retry"],
        retry_delay_s=response.get("retry_delay_s"),
        progress=[message["progress"] for message in messages if "progress" in message],
    )
