"""The reference of the Python client, from its docstrings."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from runqy_sdk import client
from runqy_sdk.client.models import Event, Job, Logs, Outcome, Progress, Task, TaskOptions
from tools.documentation.tables import cell, table

_TYPES = (TaskOptions, Task, Job, Outcome, Event, Logs, Progress)
_ERRORS = (
    client.ApiError,
    client.ServerUnreachable,
    client.ConfigurationError,
    client.TaskFailed,
    client.WaitTimeout,
    client.TaskDeleted,
    client.StreamRestarted,
)


def client_methods() -> str:
    methods = [(name, method) for name, method in vars(client.Client).items() if not name.startswith("_")]
    return "\n\n".join([_text(client.Client), *(part for name, method in methods for part in _method(name, method))])


def client_types() -> str:
    return "\n\n".join(part for kind in _TYPES for part in _type(kind))


def client_errors() -> str:
    return table(("class", "meaning"), [(f"`{kind.__name__}`", cell(_text(kind))) for kind in _ERRORS])


def _method(name: str, method: Any) -> Iterator[str]:
    signature = str(inspect.signature(method)).replace("(self, ", "(").replace("(self)", "()").replace("'", "")
    yield f"### `{name}`"
    yield f"```text\n{name}{signature}\n```"
    yield _text(method)


def _type(kind: type) -> Iterator[str]:
    yield f"### `{kind.__name__}`"
    yield _text(kind)
    yield table(("field", "type", ""), [(f"`{name}`", cell(f"`{of}`"), cell(note)) for name, of, note in _fields(kind)])


def _fields(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield the fields of a class, their types, and the strings below them."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 (narrows the type)
    for field, below in pairwise([*definition.body, definition]):
        if isinstance(field, ast.AnnAssign):
            is_note = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            note = str(below.value.value) if is_note else ""  # type: ignore[attr-defined] # checked before
            yield ast.unparse(field.target), ast.unparse(field.annotation), note


def _text(described: Any) -> str:
    text = inspect.getdoc(described)
    if not text:
        raise ValueError(f"{described!r} has no docstring")
    return text
