"""Convert a payload to the type that a handler's parameter is annotated with."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any, cast

from runqy_sdk.errors import PayloadInvalid

_ANY = (Any, object)
_NUMBERS = {float: (int, float), int: (int,)}


def convert_payload(value: Any, annotation: Any) -> Any:
    """Return a payload as its annotated type. Raise PayloadInvalid, whose text names the field.

    Dataclasses and TypedDicts are checked here, pydantic's and msgspec's types by their own libraries.
    """
    if hasattr(annotation, "model_validate"):
        import pydantic  # noqa: PLC0415 (the handler's module has imported it)

        try:
            return annotation.model_validate(value)
        except pydantic.ValidationError as error:
            raise PayloadInvalid("; ".join(_describe(problem) for problem in error.errors())) from error
    if hasattr(annotation, "__struct_fields__"):
        import msgspec  # noqa: PLC0415 (the handler's module has imported it)

        try:
            return msgspec.convert(value, annotation)  # noqa: TID251 (handlers run where the program wants)
        except msgspec.ValidationError as error:
            raise PayloadInvalid(f"payload: {error}") from error
    return _convert(value, annotation, "payload")


def _describe(problem: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    return f"payload{path}: {problem['msg']}"


class _Mismatch(PayloadInvalid):
    """A value of another type or another choice than expected."""

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(f"{path}: expected {expected}, got {got}")
        self.path, self.expected, self.got = path, expected, got


def _convert(value: Any, annotation: Any, path: str) -> Any:  # noqa: PLR0911 (a case for each kind of type)
    """Return a value as a type of the standard library."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _ANY or isinstance(annotation, typing.TypeVar):
        return value
    if origin is typing.Annotated:
        return _convert(value, args[0], path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, path)
    if origin is typing.Literal:
        if value not in args or type(value) not in {type(arg) for arg in args}:
            raise _Mismatch(path, f"one of {', '.join(map(repr, args))}", f"{value!r:.60}")
        return value
    if origin in (list, tuple, dict):
        return _convert_collection(value, origin, args, path)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(value, annotation, path)
    if typing.is_typeddict(annotation):
        hints = typing.get_type_hints(annotation)
        required = getattr(annotation, "__required_keys__", frozenset(hints))
        members = _members(value, path, required)
        return {
            **value,
            **{name: _convert(members[name], hints[name], f"{path}.{name}") for name in hints if name in members},
        }
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        try:
            return annotation(value)
        except ValueError:
            allowed = ", ".join(repr(member.value) for member in annotation)
            raise _Mismatch(path, f"one of {allowed}", f"{value!r:.60}") from None
    return _check_type(value, annotation, path)


def _convert_union(value: Any, args: tuple[Any, ...], path: str) -> Any:
    problems: list[PayloadInvalid] = []
    for arg in args:
        try:
            return _convert(value, type(None) if arg is None else arg, path)
        except PayloadInvalid as error:
            problems.append(error)
    # The deepest problem is of the alternative that was meant. Where several are as deep, any of them may be.
    depths = [len(str(problem).partition(": ")[0]) for problem in problems]
    meant = [problem for problem, depth in zip(problems, depths, strict=True) if depth == max(depths)]
    mismatches = [problem for problem in meant if isinstance(problem, _Mismatch)]
    if len(mismatches) < len(meant):
        raise meant[-1]
    raise _Mismatch(mismatches[-1].path, " or ".join(each.expected for each in mismatches), mismatches[-1].got)


def _convert_collection(value: Any, origin: Any, args: tuple[Any, ...], path: str) -> Any:
    _check_type(value, list if origin is tuple else origin, path)
    if not args:  # `typing.List` without a type
        return value
    if origin is dict:
        return {name: _convert(item, args[1], f"{path}.{name}") for name, item in value.items()}
    if origin is tuple and args[-1:] != (...,):
        if len(value) != len(args):
            raise _Mismatch(path, f"{len(args)} items", str(len(value)))
        return tuple(_convert(item, arg, f"{path}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True)))
    return cast("Any", origin)(_convert(item, args[0], f"{path}[{i}]") for i, item in enumerate(value))


def _convert_dataclass(value: Any, annotation: Any, path: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(annotation) if field.init}
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    hints = typing.get_type_hints(annotation)
    members = _members(value, path, required)
    given = {name: _convert(members[name], hints[name], f"{path}.{name}") for name in fields if name in members}
    try:
        return annotation(**given)
    except (TypeError, ValueError) as error:  # raised by __post_init__
        raise PayloadInvalid(f"{path}: {error}") from error


def _members(value: Any, path: str, required: typing.Iterable[str]) -> dict[str, Any]:
    """Return an object's members. Others than the type's fields are ignored, so that a client may be newer."""
    members: dict[str, Any] = _check_type(value, dict, path)
    if missing := sorted(set(required) - members.keys()):
        raise PayloadInvalid(f"{path}.{missing[0]}: this field is required")
    return members


def _check_type(value: Any, expected: Any, path: str) -> Any:
    if expected is None:
        expected = type(None)
    if not isinstance(expected, type):
        return value  # an annotation that says nothing about JSON, such as a Protocol's alias
    allowed = _NUMBERS.get(expected, (expected,))
    is_bool_as_number = isinstance(value, bool) and expected is not bool
    if is_bool_as_number or not isinstance(value, allowed):
        raise _Mismatch(path, _name(expected), _name(cast("type", type(value))))
    return float(value) if expected is float and isinstance(value, int) else value


_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    type(None): "null",
}


def _name(kind: type) -> str:
    return _JSON_NAMES.get(kind, "a number" if kind is float else kind.__name__)
