"""Payloads and results as a task's page shows them: text, and the tree of a JSON value.

Numbers keep their spelling, members their order.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks import payloads

MAX_RENDERED_BYTES = 64 << 10
"""The page shows no more of a payload or result. The whole can be downloaded."""
_PRETTY_MAX_LENGTH = 1 << 20
MAX_NODES = 800
MAX_DEPTH = 12
_OPEN_CHILDREN = 30
"""A value with more children is closed at first."""


class _Number(str):
    """A number as it is spelled in the JSON."""

    __slots__ = ()


@dataclass(slots=True, kw_only=True)
class Node:
    """A value. Its name is that of a member, or a position in an array."""

    name: str = ""
    kind: str
    """One of object, array, string, number and literal."""
    text: str = ""
    """The text of a value without children."""
    children: list["Node"] = field(default_factory=list)

    @property
    def summary(self) -> str:
        count = len(self.children)
        noun = "item" if self.kind == "array" else "member"
        return f"{count} {noun}{'' if count == 1 else 's'}"

    @property
    def is_open(self) -> bool:
        return len(self.children) <= _OPEN_CHILDREN


def parse_tree(text: str) -> Node | None:
    """Return the tree of a JSON object or array; None for other texts, and for a tree that is too large to show."""
    try:
        value = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_Members
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, (list, _Members)):
        return None
    root = _node("", value, MAX_DEPTH)
    return root if root is not None and sum(1 for _ in _walk(root)) <= MAX_NODES else None


class _Members:
    """The members of an object, including those with the same name."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def _node(name: str, value: object, depth: int) -> Node | None:
    if isinstance(value, _Members | list):
        if not depth:
            return None
        pairs = value.pairs if isinstance(value, _Members) else [(str(n), item) for n, item in enumerate(value)]
        # One more than may be shown is enough to find that the tree is too large.
        children = [_node(key, item, depth - 1) for key, item in pairs[: MAX_NODES + 1]]
        if any(child is None for child in children):
            return None
        kind = "object" if isinstance(value, _Members) else "array"
        return Node(name=name, kind=kind, children=[child for child in children if child is not None])
    if isinstance(value, _Number):
        return Node(name=name, kind="number", text=str(value))
    if isinstance(value, str):
        return Node(name=name, kind="string", text=value)
    return Node(name=name, kind="literal", text=json.dumps(value))


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A payload or a result on a task's page."""

    text: str
    size: int
    is_truncated: bool = False
    is_text: bool = True
    """False: it is not UTF-8, and invalid bytes were replaced."""
    tree: Node | None = None
    """The tree of a JSON object or array that is not too large."""


def render_content(data: bytes) -> Content:
    """Return bytes as text: JSON indented, with unchanged values."""
    if len(data) > MAX_RENDERED_BYTES:
        return Content(text=data[:MAX_RENDERED_BYTES].decode("utf-8", "ignore"), size=len(data), is_truncated=True)
    pretty = payloads.format_pretty(data)
    if pretty is not None and len(pretty) <= _PRETTY_MAX_LENGTH:
        return Content(text=pretty, size=len(data), tree=parse_tree(pretty))
    try:
        return Content(text=data.decode(), size=len(data))
    except UnicodeDecodeError:
        return Content(text=data.decode("utf-8", "replace"), size=len(data), is_text=False)
