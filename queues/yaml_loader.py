"""YAML 1.2 as plain values, with the line of each value for error messages."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
Plain = object
"""None, bool, int, float, str, or lists and string-keyed dicts of these."""

_VALUES_MAX = 100_000
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value")


class YamlInvalid(ValueError):
    """The text is not valid YAML."""

    def __init__(self, reason: str, line: int, path: Path = ()) -> None:
        super().__init__(reason)
        self.reason, self.line, self.path = reason, line, path


@dataclass(slots=True)
class LocatedYaml:
    """A YAML text as plain values."""

    value: Plain = None
    lines: dict[Path, int] = field(default_factory=dict)
    """The line, from 1, of the key or item at a path."""
    sources: dict[Path, str] = field(default_factory=dict)
    """The source text of a scalar that is not a string."""

    def line_of(self, path: Path) -> int:
        """Return the line of a path, or of its nearest parent that is in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(raw: bytes) -> LocatedYaml:
    """Parse a UTF-8 text. Raise YamlInvalid."""
    try:
        node = YAML(typ="safe", pure=True).compose(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise YamlInvalid("Must be UTF-8.", raw[: error.start].count(b"\n") + 1) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlInvalid(_sentence(error.problem), mark.line + 1 if mark else 1) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise YamlInvalid(_sentence(str(error).partition("\n")[0] or "nested too deeply"), 1) from error
    located = LocatedYaml()
    try:
        located.value = None if node is None else _YamlReader(located).plain(node, ())
    except RecursionError as error:
        raise YamlInvalid(_sentence("nested too deeply"), 1) from error
    return located


class _YamlReader:
    def __init__(self, located: LocatedYaml) -> None:
        self._located = located
        self._open: set[int] = set()
        self._count = 0

    def plain(self, node: Node, path: Path) -> Plain:
        """Return the value of a node. Raise YamlInvalid if JSON has no such value."""
        self._count += 1
        # A few lines of nested aliases can expand to billions of values, or contain themselves.
        if self._count > _VALUES_MAX or id(node) in self._open:
            raise YamlInvalid("Aliases expand to too many values.", _line(node), path)
        self._located.lines.setdefault(path, _line(node))
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.plain(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            raise YamlInvalid("Must be a mapping, a list or a scalar.", _line(node), path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Plain]:
        """Return a mapping. Its own keys override those that `<<` merges."""
        plain: dict[str, Plain] = {}
        for merged in _merged(node, path):
            plain = self._mapping_of(merged, path) | plain
        own: set[str] = set()
        for key, value in node.value:
            name = _name(key, path)
            if name in own:
                raise YamlInvalid("Duplicate key.", _line(key), (*path, name))
            own.add(name)
            if str(key.tag) != f"{_TAG}merge":
                self._located.lines[*path, name] = _line(key)
                self._located.sources.pop((*path, name), None)  # that of a merged key with this name
                plain[name] = self.plain(value, (*path, name))
        return plain

    def _mapping_of(self, node: Node, path: Path) -> dict[str, Plain]:
        if not isinstance(node, MappingNode):
            raise YamlInvalid("<< can only merge mappings.", _line(node), path)
        value = self.plain(node, path)
        assert isinstance(value, dict)  # noqa: S101 (a MappingNode has no other value)
        return value

    def _scalar(self, node: ScalarNode, path: Path) -> Plain:
        """Return the value of a scalar by the core schema of YAML 1.2, in which dates are strings."""
        tag, text = str(node.tag), node.value
        if tag in _TEXT_TAGS:
            return text
        self._located.sources[path] = text
        try:
            value = _scalar_value(tag, text)
        except ValueError as error:
            raise YamlInvalid(f"{text!r} has no equivalent in JSON.", _line(node), path) from error
        return value


def _scalar_value(tag: str, text: str) -> Plain:
    """Return the value of a scalar that is not a string. Raise ValueError."""
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return text.lower() == "true"
    if tag == f"{_TAG}int":
        # With base 0 `int` refuses leading zeros, which YAML allows in decimals.
        digits = text.replace("_", "")
        return int(digits, 0 if digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)
    if tag == f"{_TAG}float":
        number = float(text.replace("_", ""))
        if math.isfinite(number):
            return number
    raise ValueError(text)


def _name(key: Node, path: Path) -> str:
    if not isinstance(key, ScalarNode):
        raise YamlInvalid("Keys must be scalars.", _line(key), path)
    return str(key.value)


def _merged(node: MappingNode, path: Path) -> Iterator[Node]:
    for key, value in node.value:
        if str(key.tag) == f"{_TAG}merge":
            yield from value.value if isinstance(value, SequenceNode) else [value]


def _sentence(problem: str | None) -> str:
    return f"Invalid YAML: {problem or 'unknown error'}."


def _line(node: Node) -> int:
    line: int = node.start_mark.line
    return line + 1
