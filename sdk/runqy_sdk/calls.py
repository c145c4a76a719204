"""A call of the handler, for one task or for the members of a micro-batch, and what the worker is told about it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from functools import partial
from types import GeneratorType
from typing import Any

from runqy_sdk.context import Context, Send, join_chunks, set_current_context
from runqy_sdk.errors import Fail, PayloadInvalid, ResultInvalid, Retry, TaskCancelled
from runqy_sdk.handlers import Handler
from runqy_sdk.protocol import failure, success
from runqy_sdk.results import encode_result

Line = dict[str, Any]

_CANCELLED = "the task was cancelled"


class TaskCall:
    """A call for one task. It has one response, from the thread that runs it."""

    def __init__(self, handler: Handler, loaded: Any, send: Send, is_streaming: bool, line: Line) -> None:
        self._handler = handler
        self._payload = line.get("payload")
        self._context = Context(line, loaded, send, is_streaming)

    @property
    def is_cancelled(self) -> bool:
        """Return whether nobody needs this call any more."""
        return bool(self._context.cancelled)

    def has_task(self, task_id: str) -> bool:
        return task_id == self._context.task_id

    def cancel(self, task_id: str) -> str:
        """Cancel the task. Return nothing: it has its response when the function ends."""
        if self.has_task(task_id):
            self._context.cancelled.set()
        return ""

    def invoke(self) -> Any:
        """Call the function. Return its result, coroutine or generator. Raise what it raises, and PayloadInvalid."""
        handler, context = self._handler, self._context
        set_current_context(context)
        if handler.is_plain:  # two calls less, of the dozen that a short task costs
            return handler.function(self._payload)
        return handler.call(handler.convert(self._payload), context, context.loaded)

    def consume(self, values: Any) -> Any:
        """Send what a generator yields, and return what it returns. Raise TaskCancelled."""
        context = self._context
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
        async for chunk in values:
            self._context.chunk(chunk)

    def succeed(self, result: Any) -> str:
        """Return the response after the function has returned."""
        try:
            return _describe_result(self._context, result)
        except Exception as error:  # noqa: BLE001 (a result's own methods may raise anything)
            return self.fail(error)

    def fail(self, error: BaseException) -> str:
        """Return the response after the function has raised an exception, asyncio's CancelledError for example."""
        if _is_interruption(error) and self.is_cancelled:
            return failure(self._context.task_id, str(error) or _CANCELLED)
        return _respond_failure(self._handler, self._context, error)


class BatchCall:
    """A call for the members of a micro-batch, or for one task of a function that takes batches.

    Its responses come from the thread that runs it, and from the one that reads cancellations: each member has one,
    from whichever takes it out of `_open`.
    """

    def __init__(self, handler: Handler, loaded: Any, send: Send, is_streaming: bool, line: Line) -> None:
        """`line` is the worker's, of a batch or of a task."""
        self._handler = handler
        self._loaded = loaded
        self._lines: list[Line] = line.get("batch") or [line]
        self._members = [Context(task, loaded, send, is_streaming) for task in self._lines]
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
        """Call the function. Return its results or coroutine. Raise what it raises."""
        set_current_context(self._members[0] if len(self._members) == 1 else None)
        payloads: list[Any] = []
        contexts: list[Context] = []
        for line, context in zip(self._lines, self._members, strict=True):
            try:
                payloads.append(self._handler.convert(line.get("payload")))
                contexts.append(context)
            except Exception as error:  # noqa: BLE001 (a type of the program may raise anything)
                self._respond(context, _respond_failure(self._handler, context, error))
        self._members = contexts
        return self._handler.call(payloads, contexts, self._loaded) if contexts else []

    def succeed(self, results: Any) -> str:
        """Return the responses after the function has returned."""
        try:
            items = _check_results(results, len(self._members))
            for context, item in zip(self._members, items, strict=True):
                self._respond(context, self._describe(context, item))
        except Exception as error:  # noqa: BLE001 (a result's own methods may raise anything)
            return self.fail(error)
        return "\n".join(self._responses)

    def fail(self, error: BaseException) -> str:
        """Return the responses after the function has raised an exception, asyncio's CancelledError for example."""
        for context in list(self._open.values()):
            if _is_interruption(error) and context.cancelled:
                self._respond(context, failure(context.task_id, str(error) or _CANCELLED))
            elif len(self._members) == 1:
                self._respond(context, _respond_failure(self._handler, context, error))
        if self._open:
            # The worker runs the members singly, and each has an error of its own then.
            members = [{"task_id": task_id} for task_id in self._open]
            text = describe_failure(error)[1] or type(error).__name__
            self._responses.append(json.dumps({"batch": members, "error": text}))
        return "\n".join(self._responses)

    def _describe(self, context: Context, result: Any) -> str:
        try:
            if not isinstance(result, BaseException):
                return _describe_result(context, result)
        except ResultInvalid as error:
            result = error
        return _respond_failure(self._handler, context, result)

    def _respond(self, context: Context, response: str) -> None:
        if self._open.pop(context.task_id, None) is not None:
            self._responses.append(response)


Call = TaskCall | BatchCall


def call_maker(handler: Handler, *, loaded: Any, send: Send, is_streaming: bool) -> Callable[[Line], Call]:
    """Return what makes a call from a line of the worker."""
    kind = TaskCall if handler.batch is None else BatchCall
    return partial(kind, handler, loaded, send, is_streaming)


def respond(call: Call) -> str:
    """Run a call of a plain function and return the responses, whatever the handler raises."""
    try:
        value = call.invoke()
        if isinstance(value, GeneratorType) and isinstance(call, TaskCall):
            value = call.consume(value)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever the handler raises is the task's error)
        return call.fail(error)
    finally:
        set_current_context(None)
    return call.succeed(value)


def _describe_result(context: Context, result: Any) -> str:
    """Return the response of a task for which the handler has returned. Raise ResultInvalid."""
    if result is None and context.unsent_chunks:
        result = join_chunks(context.unsent_chunks)
    return success(context.task_id, encode_result(result))


def _respond_failure(handler: Handler, context: Context, error: BaseException) -> str:
    """Return the response of a task for which the handler raised."""
    delay = error.delay if isinstance(error, Retry) else None
    is_retried = isinstance(error, (Retry, *handler.retry_on))
    kind, text = describe_failure(error)
    return failure(context.task_id, text, retry=is_retried, delay=delay, exception=kind)


def _is_interruption(error: BaseException) -> bool:
    return isinstance(error, TaskCancelled) or not isinstance(error, Exception)


def describe_failure(error: BaseException) -> tuple[type[BaseException], str]:
    """Return the class and the text of what a handler raised: for a Retry or Fail with a cause those of the cause."""
    kind = type(error)
    if isinstance(error, (PayloadInvalid, ResultInvalid)):
        return kind, f"{'payload_invalid' if isinstance(error, PayloadInvalid) else 'result_invalid'}: {error}"
    if isinstance(error, (Retry, Fail)) and (cause := _find_cause(error)) is not None:
        # In the last line, which lists and groups of errors show.
        return type(cause), f"{_format_traceback(cause).rstrip()} ({kind.__name__}: {error})\n"
    was_returned = error.__traceback__ is None  # by a function of @batch
    if isinstance(error, (Fail, TaskCancelled)) or (isinstance(error, Retry) and was_returned):
        return kind, str(error)
    return kind, _format_traceback(error)


def _find_cause(error: BaseException) -> BaseException | None:
    """Return what an exception was raised from, or while handling, unless it was raised `from None`."""
    return error.__cause__ if error.__suppress_context__ else error.__context__


def _check_results(results: Any, size: int) -> list[Any]:
    """Return the results of a batch, one for each payload. An array is fine. Raise ResultInvalid."""
    kind = type(results).__name__
    if isinstance(results, (str, bytes, dict)) or not (hasattr(results, "__len__") and hasattr(results, "__iter__")):
        raise ResultInvalid(f"the function of @batch returned {kind}; return a list with a result for each payload")
    items: list[Any] = [*results]  # pyright: ignore[reportUnknownArgumentType]
    if len(items) != size:
        counts = f"{len(items)} results for {size} payloads"
        raise ResultInvalid(f"the function of @batch returned {counts}; return one for each")
    return items


def _format_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package, which say nothing about the handler's mistake."""
    frames = error.__traceback__
    # Not `__name__`, which is `__main__` in `python -m runqy_sdk.django`.
    while frames is not None and (frames.tb_frame.f_globals.get("__package__") or "").split(".")[0] == "runqy_sdk":
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
