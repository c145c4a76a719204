"""Turns the text of environment variables into typed values, and refuses nonsense with a sentence."""

import base64
import binascii
import os
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypeVar

from environs import EnvError, FileAwareEnv

from runqy import durations
from runqy.broker import rates
from runqy.broker.rates import Rate

T = TypeVar("T")
Network = IPv4Network | IPv6Network

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_SIZES = {"": 1, "b": 1} | {
    prefix + rest: 1 << bits for prefix, bits in (("k", 10), ("m", 20), ("g", 30)) for rest in ("", "b", "ib")
}

_MOST_S = 10 * 365 * 24 * 3600


class SettingInvalid(SystemExit):
    """A variable cannot be understood; leaving with one sentence is what the start of a server does about it."""


class Environment:
    """Reads variables, each also from the file that NAME_FILE names; an empty one counts as unset."""

    def __init__(self) -> None:
        self._env = FileAwareEnv(strip_whitespace=True)

    def text(self, name: str, default: str = "") -> str:
        """Return a variable as it stands, without blanks around it."""
        if os.environ.get(name) and os.environ.get(f"{name}_FILE"):
            raise SettingInvalid(f"{name} and {name}_FILE are both set: keep one of them.")
        try:
            return str(self._env.str(name, "")).strip() or default
        except (EnvError, ValueError, OSError) as error:
            raise SettingInvalid(f"{name}: {error}") from error

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """Return what a parser makes of a variable; its ValueError ends the start with the name and reason."""
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingInvalid(f"{name}: {error}.") from error

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a yes or no."""
        return self.parsed(name, parse_flag, default)

    def count(self, name: str, default: int, *, lowest: int = 0, highest: int = 2**31 - 1) -> int:
        """Return a whole number within bounds."""
        return self.parsed(name, lambda text: parse_count(text, lowest, highest), default)

    def seconds(self, name: str, default: int, *, lowest: int = 0) -> int:
        """Return the seconds of a Go duration or a plain number of seconds."""
        return self.parsed(name, lambda text: parse_seconds(text, lowest), default)

    def size(self, name: str, default: int) -> int:
        """Return a number of bytes: `52428800`, `50MiB`."""
        return self.parsed(name, parse_size, default)

    def rate(self, name: str, default: Rate | None) -> Rate | None:
        """Return a number of requests in a span of time; None: no limit."""
        return self.parsed(name, parse_rate, default)

    def choice(self, name: str, options: tuple[str, ...], default: str) -> str:
        """Return one of a few words."""
        return self.parsed(name, lambda text: _one_of(text, options), default)

    def words(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the parts of a list separated by commas."""
        return self.parsed(name, parse_words, default)

    def path(self, name: str, default: Path) -> Path:
        """Return an absolute path."""
        return self.parsed(name, lambda text: Path(text).expanduser().absolute(), default)

    def networks(self, name: str) -> tuple[Network, ...]:
        """Return IP networks: `10.0.0.0/8,::1`."""
        return self.parsed(name, lambda text: tuple(ip_network(word) for word in parse_words(text)), ())


def parse_flag(text: str) -> bool:
    """Return a yes or no. Raises ValueError for anything that is neither."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_count(text: str, lowest: int, highest: int) -> int:
    """Return a whole number. Raises ValueError outside the bounds."""
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= highest:
        raise ValueError(f"{text!r} is not a whole number from {lowest} to {highest}")
    return int(text)


def parse_seconds(text: str, lowest: int) -> int:
    """Return the seconds of a span. Raises ValueError for what is none, and for one that is too short or endless."""
    seconds = durations.parse_s(text)
    if not lowest <= seconds <= _MOST_S:
        raise ValueError(f"{text!r} is not from {lowest} s to ten years")
    return seconds


def parse_size(text: str) -> int:
    """Return a number of bytes. Raises ValueError for an unknown unit, and for nothing at all."""
    digits = text.rstrip("BKMGIbkmgi ").strip()
    unit = text[len(digits) :].strip().lower()
    if not digits.isdigit() or unit not in _SIZES or int(digits) == 0:
        raise ValueError(f"{text!r} is not a size such as 52428800 or 50MiB")
    return int(digits) * _SIZES[unit]


def parse_rate(text: str) -> Rate | None:
    """Return a number of requests in a second, minute or hour: `600/m`; None for `off`. Raises ValueError."""
    if text.lower() == "off":
        return None
    try:
        return rates.parse_rate(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor off") from None


def parse_words(text: str) -> tuple[str, ...]:
    """Return the parts of a list separated by commas, without empty ones."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def parse_master_keys(text: str) -> str:
    """Return the text, once each of its keys is seen to be 32 bytes in base64. The error does not show a key."""
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
        raise ValueError(f"{text!r} is none of {', '.join(options)}")
    return text
