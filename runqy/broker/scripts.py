"""Load the Lua files, turn a script's name and arguments into a command for Redis, and encode commands.

A Lua file starts with one sentence and then names its keys and arguments:

    -- KEYS task pending
    -- ARGV task_id message now_ns
    -- RETURNS 1 enqueued, 0 the id exists

The last name of either line may end in `*`: it takes a sequence of any length. A line `-- USES counters wake` includes
the functions in `lua/parts/counters.lua` and `lua/parts/wake.lua`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any, cast

import msgspec
from hiredis import pack_command

Value = str | bytes | int
Data = bytes | memoryview
_READS = """
    ECHO EXISTS GET GETRANGE HGET HGETALL HLEN HMGET HSCAN INFO LLEN LRANGE MGET PING SCAN SMEMBERS TIME XLEN XRANGE
    ZCARD ZCOUNT ZRANGE ZSCORE
"""
"""Plain commands that change nothing."""


class Command(msgspec.Struct, frozen=True):
    """A command for Redis. `key` determines the node that gets it; None: any node."""

    args: tuple[Value, ...]
    key: str | None
    script: "Script | None" = None
    reply_bytes: int = 0
    """The size of its reply, if that is known to be large."""
    may_fail: bool = False
    """Its request succeeds also where the server of its key is unavailable."""

    @property
    def may_write(self) -> bool:
        return self.script.may_write if self.script is not None else str(self.args[0]) not in _READS.split()


class Script:
    """A Lua file. Calling it checks the argument names and returns the command."""

    __slots__ = ("_get_args", "_get_keys", "_names", "_star_arg", "_star_key", "may_write", "name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        # The flag is Redis's own: it fails a script that has the flag and writes.
        self.may_write = "no-writes" not in source.partition("\n")[0]
        keys, self._star_key = _names(source, "-- KEYS")
        args, self._star_arg = _names(source, "-- ARGV")
        self._get_keys, self._get_args = _argument_getter(keys), _argument_getter(args)
        self._names = {*keys, *args} | {n for n in (self._star_key, self._star_arg) if n}

    def __call__(self, **values: Value | Sequence[Value]) -> Command:
        """Return the command for these arguments.

        Raise TypeError for a missing or unknown name.
        """
        if values.keys() != self._names:
            missing, unknown = self._names - values.keys(), values.keys() - self._names
            raise TypeError(f"{self.name}.lua: missing {sorted(missing)}, unknown {sorted(unknown)}")
        keys, args = self._get_keys(values), self._get_args(values)
        if self._star_key:
            keys += tuple(values[self._star_key])  # type: ignore[arg-type]
        if self._star_arg:
            args += tuple(values[self._star_arg])  # type: ignore[arg-type]
        key = keys[0] if keys else None
        assert key is None or isinstance(key, str)  # noqa: S101 (keys come from keys.py)
        return Command(args=("EVALSHA", self.sha, len(keys), *keys, *args), key=key, script=self)


def _argument_getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Value, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _names(source: str, mark: str) -> tuple[tuple[str, ...], str | None]:
    """Return the names after a mark. The second value is the last name, without its `*`, if it takes a sequence."""
    line = next((line for line in source.splitlines() if line.startswith(mark)), "")
    names = line.removeprefix(mark).split()
    if names and names[-1].endswith("*"):
        return tuple(names[:-1]), names[-1][:-1]
    return tuple(names), None


@cache
def script(name: str) -> Script:
    """Return the script in `lua/<name>.lua`."""
    lines = _read_lua(f"{name}.lua").splitlines(keepends=True)
    return Script(name, "".join(_include_part(line) for line in lines))


def load_scripts() -> None:
    """Read all scripts now. A process that has no free descriptors later can still extend leases and record results."""
    for file in files("runqy.broker").joinpath("lua").iterdir():
        if file.is_file():
            script(file.name.removesuffix(".lua"))


def _include_part(line: str) -> str:
    if not line.startswith("-- USES "):
        return line
    return "".join(_read_lua(f"parts/{part}.lua") for part in line.split()[2:])


def _read_lua(path: str) -> str:
    return files("runqy.broker").joinpath("lua", path).read_text("utf-8")


def command(*args: Value, key: str | None) -> Command:
    return Command(args=args, key=key)


pack = cast("Callable[[tuple[Value, ...]], bytes]", pack_command)
"""Encode a command. hiredis annotates its function for single-word commands only."""

JOINED_BYTES = 256 * 1024
"""Pending data up to this size is joined into one write. Of more data each piece is written separately."""


def pack_pieces(args: tuple[Value, ...]) -> list[Data]:
    """Encode a command as pieces. Large arguments are not copied into them: hiredis would copy these three times."""
    for arg in args:  # on the path of every command: `any()` with a generator takes twice as long
        if type(arg) is bytes and len(arg) > JOINED_BYTES:
            break
    else:
        return [pack(args)]
    pieces: list[Data] = []
    small = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if isinstance(arg, bytes) else str(arg).encode()
        small.append(b"$%d\r\n" % len(data))
        if len(data) > JOINED_BYTES:
            view = memoryview(data)
            pieces += [b"".join(small), *(view[i : i + JOINED_BYTES] for i in range(0, len(data), JOINED_BYTES))]
            small = [b"\r\n"]
        else:
            small += [data, b"\r\n"]
    return [*pieces, b"".join(small)]
