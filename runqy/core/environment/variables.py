"""Typed environment variables of the server and the worker. An invalid value ends the start with a message.

The documentation lists the variables from these declarations, with their `help`.
"""

import base64
import binascii
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypeVar

import structlog
from environs import EnvError, FileAwareEnv

from runqy.core.formats import durations, sizes
from runqy.core.formats.durations import Rate
from runqy.errors import choices_error

log = structlog.get_logger()

T = TypeVar("T")
Network = IPv4Network | IPv6Network

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}

TEN_YEARS_S = 10 * 365 * 24 * 3600


class InvalidSetting(SystemExit):
    """A variable is invalid. If not caught, the process exits with the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A variable that is read, as the documentation lists it."""

    name: str
    kind: str
    """The method that reads it."""
    default: object
    help: str
    shown_default: str
    """The default in words, where the value depends on the machine."""
    section: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedSetting:
    """A variable that is set, but no longer read."""

    name: str
    instead: str
    """A sentence: what happens without the variable, or what to set."""


def warn_of_removed(settings: Iterable[RemovedSetting]) -> None:
    """Log each of them. Called once by a process that would have read them, when its logging is configured."""
    for setting in settings:
        log.warning("setting_removed", setting=setting.name, instead=setting.instead)


class Environment:
    """Reads variables, or the files that NAME_FILE names. An empty variable counts as unset."""

    def __init__(self, fallbacks: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None) -> None:
        """`fallbacks` are used for variables that are not set. Errors mention the `labels` of variables."""
        self._env = FileAwareEnv(strip_whitespace=True)
        self._fallbacks, self._labels = fallbacks or {}, labels or {}
        self.section = ""
        """The heading under which the documentation lists what is read next."""
        self.settings: dict[str, Setting] = {}
        """What was read, in order."""

    def text(self, name: str, default: str = "", *, help: str, shown_default: str = "") -> str:
        return self._declare("text", name, str, default, help, shown_default)

    def required(self, name: str, parse: Callable[[str], T], *, help: str) -> T:
        value = self.parsed(name, parse, None, help=help)
        if not value:
            raise InvalidSetting(f"{self._label(name)} is not set.")
        return value

    def parsed(self, name: str, parse: Callable[[str], T], default: T, *, help: str, shown_default: str = "") -> T:
        """Return the parsed variable. If the parser raises ValueError, raise InvalidSetting with its message."""
        return self._declare("parsed", name, parse, default, help, shown_default)

    def flag(self, name: str, *, default: bool = False, help: str, shown_default: str = "") -> bool:
        return self._declare("flag", name, parse_flag, default, help, shown_default)

    def count(self, name: str, default: int, *, lowest: int = 0, highest: int = 2**31 - 1, help: str) -> int:
        return self._declare("count", name, lambda text: parse_count(text, lowest, highest), default, help)

    def seconds(self, name: str, default: int, *, lowest: int = 0, highest: int = TEN_YEARS_S, help: str) -> int:
        """Return seconds. The text is a number, or a duration in Go's format."""
        return self._declare("seconds", name, lambda text: parse_seconds(text, lowest, highest), default, help)

    def fraction_of_seconds(self, name: str, default: float, *, help: str) -> float:
        """Return seconds that are not rounded. The text is as for `seconds`."""
        return self._declare("seconds", name, lambda text: durations.parse_ns(text) / 1e9, default, help)

    def size(self, name: str, default: int, *, help: str) -> int:
        """Return a number of bytes. The text is, for example, `52428800` or `50MiB`."""
        return self._declare("size", name, parse_size, default, help)

    def rate(self, name: str, default: Rate | None, *, help: str) -> Rate | None:
        return self._declare("rate", name, parse_rate, default, help)

    def choice(self, name: str, options: tuple[str, ...], default: str, *, help: str) -> str:
        return self._declare("choice", name, lambda text: _one_of(text, options), default, help)

    def words(self, name: str, default: tuple[str, ...] = (), *, help: str) -> tuple[str, ...]:
        return self._declare("words", name, parse_words, default, help)

    def path(self, name: str, default: Path, *, help: str, shown_default: str) -> Path:
        return self._declare(
            "path", name, lambda text: Path(text).expanduser().absolute(), default, help, shown_default
        )

    def networks(self, name: str, *, help: str) -> tuple[Network, ...]:
        return self._declare(
            "networks", name, lambda text: tuple(ip_network(word) for word in parse_words(text)), (), help
        )

    def find_removed(self, instead: Mapping[str, str]) -> tuple[RemovedSetting, ...]:
        """Return those of the removed variables that are set. `instead` has the sentence of each name.

        A value is not looked at, so one that was never valid does not end the start.
        """
        return tuple(
            RemovedSetting(name=self._label(name), instead=sentence)
            for name, sentence in instead.items()
            if os.environ.get(name) or os.environ.get(f"{name}_FILE") or self._fallbacks.get(name)
        )

    def _declare(  # noqa: PLR0913, PLR0917 (its callers have few)
        self, kind: str, name: str, parse: Callable[[str], T], default: T, help: str, shown_default: str = ""
    ) -> T:
        self.settings[name] = Setting(
            name=name, kind=kind, default=default, help=help, shown_default=shown_default, section=self.section
        )
        text = self._read(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise InvalidSetting(f"{self._label(name)}: {error}.") from error

    def _read(self, name: str) -> str:
        if os.environ.get(name) and os.environ.get(f"{name}_FILE"):
            raise InvalidSetting(f"{name} and {name}_FILE are both set; set only one of them.")
        try:
            text = str(self._env.str(name, "")).strip()
        except (EnvError, ValueError, OSError) as error:
            raise InvalidSetting(f"{name}: {error}") from error
        return text or self._fallbacks.get(name, "").strip()

    def _label(self, name: str) -> str:
        return f"{name} ({self._labels[name]})" if name in self._labels else name


def parse_flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_count(text: str, lowest: int, highest: int) -> int:
    # `int` also accepts signs, spaces, underscores and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= highest:
        raise ValueError(f"{text!r} is not a whole number from {lowest} to {highest}")
    return int(text)


def parse_seconds(text: str, lowest: int, highest: int) -> int:
    """Return the seconds of a duration. Raise ValueError if it is invalid or out of bounds."""
    seconds = durations.parse_s(text)
    if not lowest <= seconds <= highest:
        longest = "ten years" if highest == TEN_YEARS_S else f"{highest} s"
        raise ValueError(f"{text!r} is not from {lowest} s to {longest}")
    return seconds


def parse_size(text: str) -> int:
    size = sizes.parse_bytes(text)
    if size == 0:
        raise ValueError(f"{text!r} is not a size of at least a byte")
    return size


def parse_rate(text: str) -> Rate | None:
    """Return a rate such as `600/m`; None for `off`. Raise ValueError."""
    if text.lower() == "off":
        return None
    try:
        return durations.parse_rate(text)
    except ValueError as error:
        raise ValueError(f"{error}, and not off") from None


def parse_words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))


def parse_master_keys(text: str) -> str:
    """Return the text unchanged. Raise ValueError if a key is not 32 bytes in base64. The message never contains it."""
    for number, key in enumerate(text.split(","), start=1):
        try:
            length = len(base64.b64decode(key.strip(), validate=True))
        except binascii.Error:
            length = -1
        if length != 32:
            raise ValueError(f"key {number} is not 32 bytes in base64")
    return text


def _one_of(text: str, options: tuple[str, ...]) -> str:
    if text not in options:
        raise ValueError(choices_error(options).removesuffix("."))
    return text
