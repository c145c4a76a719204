"""The functions that a program marks with `@task` and `@load`."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, overload

from runqy_sdk.context import Context
from runqy_sdk.payloads import convert_payload

Function = TypeVar("Function", bound=Callable[..., Any])
Loader = Callable[[], Any]


@dataclass(frozen=True)
class Handler:
    """A function that runs tasks, and what each of its parameters gets."""

    function: Callable[..., Any]
    retry_on: tuple[type[BaseException], ...]
    sources: tuple[str, ...]
    """For each parameter: `payload`, `context` or `loaded`."""
    annotation: Any
    batch: dict[str, int] | None
    """The limits of a batch, as the worker is told; None for a function that gets one task."""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    @cached_property
    def is_plain(self) -> bool:
        """Return whether the function gets nothing but the payload as it is."""
        return self.sources == ("payload",) and self.annotation is Any

    def convert(self, payload: Any) -> Any:
        """Return a payload as the parameter's annotation has it. Raise PayloadInvalid."""
        return payload if self.annotation is Any else convert_payload(payload, self.annotation)

    def call(self, payload: Any, context: Any, loaded: Any) -> Any:
        """Call the function, for a batch with lists. Return its result, coroutine or generator."""
        values = {"payload": payload, "context": context, "loaded": loaded}
        return self.function(*[values[source] for source in self.sources])


_handlers: list[Handler] = []
_loaders: list[Loader] = []


@overload
def task(function: Function) -> Function: ...


@overload
def task(*, retry_on: tuple[type[BaseException], ...] = ()) -> Callable[[Function], Function]: ...


def task(function: Any = None, *, retry_on: tuple[type[BaseException], ...] = ()) -> Any:
    """Mark the function or coroutine that runs the tasks of this program. It remains callable as it is.

    A parameter annotated with Context, or named `ctx` without an annotation, gets the context. The first other one gets
    the payload: as the dict that it is, or as the dataclass, TypedDict, pydantic or msgspec type of its annotation. A
    second one gets what `@load` returned. An exception fails the task permanently; those in `retry_on`, and Retry,
    retry it. A generator returns the parts of its result.
    """

    return _mark(function, retry_on, None)


@overload
def batch(function: Function) -> Function: ...


@overload
def batch(
    *, max_size: int = 16, max_wait_ms: int = 20, retry_on: tuple[type[BaseException], ...] = ()
) -> Callable[[Function], Function]: ...


def batch(
    function: Any = None, *, max_size: int = 16, max_wait_ms: int = 20, retry_on: tuple[type[BaseException], ...] = ()
) -> Any:
    """Mark the function or coroutine that runs several tasks of this program at once, as a model does.

    It gets a list of payloads, and returns a list with the result of each. An item may be an exception, such as
    Retry("busy"), which ends its task alone. What the function raises fails the batch: the worker then sends each
    member once more by itself. A batch begins with its first task, and is sent when it has `max_size` members or after
    `max_wait_ms`. A parameter annotated with `list[Context]`, or named `ctx` without an annotation, gets the contexts
    of the members. All else is as for `@task`. A worker that does not know of batches sends one member at a time.
    """
    limits = {"max_size": max_size, "max_wait_ms": max_wait_ms}
    for (name, value), (least, most) in zip(limits.items(), ((1, 256), (0, 60_000)), strict=True):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"@batch: {name}: {value!r} is not a whole number from {least} to {most}")
    return _mark(function, retry_on, limits)


def _mark(function: Any, retry_on: tuple[type[BaseException], ...], limits: dict[str, int] | None) -> Any:
    def mark(function: Function) -> Function:
        if _handlers:
            mark_name = "@batch" if limits else "@task"
            marked = _handlers[0].function.__qualname__
            raise TypeError(f"{mark_name}: {marked} is marked already; a program has one handler")
        handler = make_handler(function, retry_on=retry_on, batch=limits)
        _handlers.append(handler)
        function.runqy_handler = handler  # type: ignore[attr-defined] # for runqy_sdk.testing
        return function

    return mark if function is None else mark(function)


def load(function: Function) -> Function:
    """Mark the function or coroutine that runs once before the first task, to load a model for example."""
    if _loaders:
        raise TypeError(f"@load: {_loaders[0].__qualname__} is marked already; a program has one")
    _loaders.append(function)
    return function


def make_handler(
    function: Callable[..., Any],
    *,
    retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
    batch: dict[str, int] | None = None,
) -> Handler:
    """Return the handler of a function. Raise TypeError for a parameter that would get no value."""
    if isinstance(retry_on, type):
        retry_on = (retry_on,)
    if batch and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise TypeError(f"@batch: {function.__qualname__} is a generator; return a list with a result for each payload")
    sources: list[str] = []
    annotation: Any = Any
    for parameter in _signature(function).parameters.values():
        is_positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if _is_context(parameter, is_list=batch is not None):
            source = "context"
        elif "payload" not in sources:
            source = "payload"
            is_known = parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str)
            annotation = parameter.annotation if is_known else Any
            if batch:
                annotation = _item_type(annotation, f"the parameter {parameter.name!r} of {function.__qualname__}")
        else:
            source = "loaded"
        if is_positional and source not in sources:
            sources.append(source)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(
                f"{'@batch' if batch else '@task'}: the parameter {parameter.name!r} of {function.__qualname__} gets "
                "no value; a handler has a payload, a value loaded by @load, and ctx"
            )
        else:
            break
    return Handler(function, tuple(retry_on), tuple(sources), annotation, batch)


def _is_context(parameter: inspect.Parameter, *, is_list: bool) -> bool:
    # `ctx: dict` is what `@load` returned, as in the documented handlers of runqy-python.
    is_named = parameter.name == "ctx" and parameter.annotation in (parameter.empty, Any)
    if parameter.annotation in (Context, "Context") and is_list:
        raise TypeError(f"@batch: the parameter {parameter.name!r} gets a list; annotate it with list[Context]")
    return is_named or parameter.annotation in ((list[Context], "list[Context]") if is_list else (Context, "Context"))


def _item_type(annotation: Any, name: str) -> Any:
    """Return what the payloads of a batch are converted to. Raise TypeError."""
    if annotation in (Any, list):
        return Any
    if typing.get_origin(annotation) not in (list, collections.abc.Sequence):
        raise TypeError(f"@batch: {name} gets a list of payloads; annotate it with list[…]")
    return typing.get_args(annotation)[0]


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name that is imported for type checkers only
        return inspect.signature(function)


def get_handler() -> Handler:
    """Return the handler of this program. Raise RuntimeError if there is none."""
    if not _handlers:
        raise RuntimeError("No function is marked with @task or @batch.")
    return _handlers[0]


def get_loader() -> Loader | None:
    return _loaders[0] if _loaders else None
