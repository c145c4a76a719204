"""Loads the Lua files and turns a verb's name and arguments into a command for Redis.

A Lua file opens with one sentence and then names its keys and arguments:

    -- KEYS task pending
    -- ARGV task_id message now_ns
    -- RETURNS 1 queued, 0 the id is taken

The last name of either line may end in `*`: it takes a sequence of any length. A line `-- USES counters wake` stands
for the functions in `lua/parts/counters.lua` and `lua/parts/wake.lua`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any

import msgspec

Value = str | bytes | int


class Command(msgspec.Struct, frozen=True):
    """One command for Redis, and the key that says which node it belongs to (None: any)."""

    args: tuple[Value, ...]
    key: str | None
    script: "Script | None" = None


class Script:
    """One Lua file. Calling it checks the names and gives the command, without asking Redis."""

    __slots__ = ("_names", "_pick_args", "_pick_keys", "_star_arg", "_star_key", "name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        keys, self._star_key = _names(source, "-- KEYS")
        args, self._star_arg = _names(source, "-- ARGV")
        self._pick_keys, self._pick_args = _picker(keys), _picker(args)
        self._names = {*keys, *args} | {n for n in (self._star_key, self._star_arg) if n}

    def __call__(self, **values: Value | Sequence[Value]) -> Command:
        """Give the command for these arguments.

        Raises TypeError for a name that is missing or that the file does not know.
        """
        if values.keys() != self._names:
            missing, unknown = self._names - values.keys(), values.keys() - self._names
            raise TypeError(f"{self.name}.lua: missing {sorted(missing)}, unknown {sorted(unknown)}")
        keys, args = self._pick_keys(values), self._pick_args(values)
        if self._star_key:
            keys += tuple(values[self._star_key])  # type: ignore[arg-type]
        if self._star_arg:
            args += tuple(values[self._star_arg])  # type: ignore[arg-type]
        key = keys[0] if keys else None
        assert key is None or isinstance(key, str)  # noqa: S101 (keys come from keys.py)
        return Command(args=("EVALSHA", self.sha, len(keys), *keys, *args), key=key, script=self)


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Value, ...]]:
    """Return a function that picks values by their names, in order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _names(source: str, mark: str) -> tuple[tuple[str, ...], str | None]:
    """Read the names behind a mark, and apart from them the last one if it takes a sequence."""
    line = next((line for line in source.splitlines() if line.startswith(mark)), "")
    names = line.removeprefix(mark).split()
    if names and names[-1].endswith("*"):
        return tuple(names[:-1]), names[-1][:-1]
    return tuple(names), None


@cache
def script(name: str) -> Script:
    """Return the script in `lua/<name>.lua`."""
    lines = _read_lua(f"{name}.lua").splitlines(keepends=True)
    return Script(name, "".join(_expanded(line) for line in lines))


def _expanded(line: str) -> str:
    """Return a line of Lua, or the parts that it stands for."""
    if not line.startswith("-- USES "):
        return line
    return "".join(_read_lua(f"parts/{part}.lua") for part in line.split()[2:])


def _read_lua(path: str) -> str:
    """Return the text of a Lua file."""
    return files("runqy.broker").joinpath("lua", path).read_text("utf-8")


def command(*args: Value, key: str | None) -> Command:
    """Return a plain Redis command."""
    return Command(args=args, key=key)
