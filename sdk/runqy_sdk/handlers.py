"""The functions that a program marks with `@task` and `@load`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
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

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    def call(self, payload: Any, context: Context) -> Any:
        """Call the function. Return its result, coroutine or generator. Raise PayloadInvalid."""
        if self.annotation is not Any:
            payload = convert_payload(payload, self.annotation)
        values = {"payload": payload, "context": context, "loaded": context.loaded}
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

    def mark(function: Function) -> Function:
        if _handlers:
            raise TypeError(f"@task: {_handlers[0].function.__qualname__} is marked already; a program has one handler")
        handler = make_handler(function, retry_on=retry_on)
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


def make_handler(function: Callable[..., Any], *, retry_on: tuple[type[BaseException], ...] = ()) -> Handler:
    """Return the handler of a function. Raise TypeError for a parameter that would get no value."""
    if isinstance(retry_on, type):
        retry_on = (retry_on,)
    sources: list[str] = []
    annotation: Any = Any
    for parameter in _signature(function).parameters.values():
        is_positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if _is_context(parameter):
            source = "context"
        elif "payload" not in sources:
            source = "payload"
            is_known = parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str)
            annotation = parameter.annotation if is_known else Any
        else:
            source = "loaded"
        if is_positional and source not in sources:
            sources.append(source)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(
                f"@task: the parameter {parameter.name!r} of {function.__qualname__} gets no value; "
                "a handler has a payload, a value loaded by @load, and ctx"
            )
        else:
            break
    return Handler(function, tuple(retry_on), tuple(sources), annotation)


def _is_context(parameter: inspect.Parameter) -> bool:
    # `ctx: dict` is what `@load` returned, as in the documented handlers of runqy-python.
    is_named = parameter.name == "ctx" and parameter.annotation in (parameter.empty, Any)
    return is_named or parameter.annotation in (Context, "Context")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name that is imported for type checkers only
        return inspect.signature(function)


def get_handler() -> Handler:
    """Return the handler of this program. Raise RuntimeError if there is none."""
    if not _handlers:
        raise RuntimeError("No function is marked with @task.")
    return _handlers[0]


def get_loader() -> Loader | None:
    return _loaders[0] if _loaders else None
