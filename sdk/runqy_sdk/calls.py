"""A call of the handler, for one task or for the members of a micro-batch, and what the worker is told about it."""

from __future__ import annotations

import inspect
import json
import traceback
from typing import Any

from runqy_sdk.context import Context, Send, join_chunks, set_current_context
from runqy_sdk.errors import Fail, PayloadInvalid, Retry, TaskCancelled
from runqy_sdk.handlers import Handler
from runqy_sdk.protocol import failure, success
from runqy_sdk.results import ResultInvalid, encode_result

Line = dict[str, Any]

_CANCELLED = "the task was cancelled"


class Call:
    """Its responses come from the thread that runs it, and from the one that reads cancellations: each member has one,
    from whichever takes it out of `_open`."""

    def __init__(self, handler: Handler, line: Line, *, loaded: Any, send: Send, is_streaming: bool) -> None:
        """`line` is the worker's, of a task or of a batch."""
        self._handler = handler
        self._lines: list[Line] = line.get("batch") or [line]
        self._members = [Context(task, loaded=loaded, send=send, is_streaming=is_streaming) for task in self._lines]
        self._open = {context.task_id: context for context in self._members}
        self._responses: list[str] = []

    @property
    def is_cancelled(self) -> bool:
        """Return whether nobody needs this call any more."""
        return all(context.cancelled for context in list(self._open.values()))

    def has_task(self, task_id: str) -> bool:
        """Return whether a task has no response yet."""
        return task_id in self._open

    def cancel(self, task_id: str) -> str:
        """Cancel a member. Return its response if the call continues for others, else nothing."""
        context = self._open.get(task_id)
        if context is None:
            return ""
        context.cancelled.set()
        if self.is_cancelled or self._open.pop(task_id, None) is None:
            return ""
        return failure(task_id, _CANCELLED)

    def invoke(self) -> Any:
        """Call the function. Return its result, coroutine or generator. Raise what it raises, and PayloadInvalid."""
        set_current_context(self._members[0] if len(self._members) == 1 else None)
        if self._handler.batch is None:
            (context,) = self._members
            return self._handler.call(self._handler.convert(self._lines[0].get("payload")), context, context.loaded)
        payloads, contexts = [], []
        for line, context in zip(self._lines, self._members, strict=True):
            try:
                payloads.append(self._handler.convert(line.get("payload")))
                contexts.append(context)
            except Exception as error:  # noqa: BLE001 (a type of the program may raise anything)
                self._respond(context, self._fail(context, error))
        loaded, self._members = self._members[0].loaded, contexts
        return self._handler.call(payloads, contexts, loaded) if contexts else []

    def consume(self, values: Any) -> Any:
        """Send what a generator yields, and return what it returns. Raise TaskCancelled."""
        (context,) = self._members
        while True:
            try:
                context.chunk(next(values))
            except StopIteration as end:
                return end.value
            if context.cancelled:
                values.close()
                raise TaskCancelled(_CANCELLED)

    async def consume_async(self, values: Any) -> None:
        """Send what an async generator yields."""
        (context,) = self._members
        async for chunk in values:
            context.chunk(chunk)

    def succeed(self, result: Any) -> str:
        """Return the responses after the function has returned."""
        try:
            items = [result] if self._handler.batch is None else _check_results(result, len(self._members))
            for context, item in zip(self._members, items, strict=True):
                self._respond(context, self._describe_result(context, item))
        except Exception as error:  # noqa: BLE001 (a result's own methods may raise anything)
            return self.fail(error)
        return "\n".join(self._responses)

    def fail(self, error: BaseException) -> str:
        """Return the responses after the function has raised an exception, asyncio's CancelledError for example."""
        is_interrupted = isinstance(error, TaskCancelled) or not isinstance(error, Exception)
        for context in list(self._open.values()):
            if is_interrupted and context.cancelled:
                self._respond(context, failure(context.task_id, str(error) or _CANCELLED))
            elif len(self._members) == 1:
                self._respond(context, self._fail(context, error))
        if self._open:
            # The worker runs the members singly, and each has an error of its own then.
            members = [{"task_id": task_id} for task_id in self._open]
            self._responses.append(json.dumps({"batch": members, "error": _describe(error) or type(error).__name__}))
        return "\n".join(self._responses)

    def _respond(self, context: Context, response: str) -> None:
        if self._open.pop(context.task_id, None) is not None:
            self._responses.append(response)

    def _describe_result(self, context: Context, result: Any) -> str:
        if self._handler.batch is not None and isinstance(result, BaseException):
            return self._fail(context, result)
        if result is None and context.unsent_chunks:
            result = join_chunks(context.unsent_chunks)
        try:
            return success(context.task_id, encode_result(result))
        except ResultInvalid as error:
            return self._fail(context, error)

    def _fail(self, context: Context, error: BaseException) -> str:
        """Return the response of a task for which the handler raised."""
        delay = error.delay if isinstance(error, Retry) else None
        is_retried = isinstance(error, (Retry, *self._handler.retry_on))
        return failure(context.task_id, _describe(error), retry=is_retried, delay=delay)


def respond(call: Call) -> str:
    """Run a call of a plain function and return the responses, whatever the handler raises."""
    try:
        value = call.invoke()
        if inspect.isgenerator(value):
            value = call.consume(value)
    except Exception as error:  # noqa: BLE001 (whatever the handler raises is the task's error)
        return call.fail(error)
    finally:
        set_current_context(None)
    return call.succeed(value)


def _describe(error: BaseException) -> str:
    if isinstance(error, (Retry, Fail, TaskCancelled)):
        return str(error)
    if isinstance(error, (PayloadInvalid, ResultInvalid)):
        kind = "payload_invalid" if isinstance(error, PayloadInvalid) else "result_invalid"
        return f"{kind}: {error}"
    return _format_traceback(error)


def _check_results(results: Any, size: int) -> list[Any]:
    """Return the results of a batch, one for each payload. An array is fine. Raise ResultInvalid."""
    if isinstance(results, (str, bytes, dict)) or not (hasattr(results, "__len__") and hasattr(results, "__iter__")):
        kind = type(results).__name__
        raise ResultInvalid(f"the function of @batch returned {kind}; return a list with a result for each payload")
    items = list(results)
    if len(items) != size:
        counts = f"{len(items)} results for {size} payloads"
        raise ResultInvalid(f"the function of @batch returned {counts}; return one for each")
    return items


def _format_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package, which say nothing about the handler's mistake."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("runqy_sdk."):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
