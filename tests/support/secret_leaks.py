"""A unique secret, and the search for it in everything that a run of tests leaves behind.

Tests that store a secret in a vault create it with `SUITE.secret()`. Their logs and responses are searched while they
run; Redis, the database and files are searched afterwards, for the plain text and for every encoding that a value may
have by accident. Only the response to `POST /worker/register` may contain it.
"""

import base64
import logging
import os
import secrets
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from django.db import connection
from django.http import HttpRequest, HttpResponse

from tests.support.database import find_tables_with_rows

REGISTER = "/worker/register"
SKIPPED_FOLDERS = {".git", "venv", ".venv", "site-packages"}
_AT_ONCE = 1 << 24


class Canary:
    """A secret, and the places where it was found."""

    def __init__(self) -> None:
        self.core = f"canary{secrets.token_hex(12)}"  # letters and digits, which no escaping changes
        self.needles = _needles(self.core)
        self.leaks: list[str] = []

    def secret(self, head: str = "sk-", tail: str = "") -> str:
        """Return a value that contains the canary, between a head and a tail that a mask may show."""
        return f"{head}{self.core}{tail}"

    def look(self, content: bytes, where: str) -> None:
        """Record the encodings in which bytes contain the canary."""
        content = content.translate(None, b"\0")  # UTF-16 of ASCII becomes ASCII
        self.leaks += [f"{where}: {encoding}" for encoding, needle in self.needles.items() if needle in content]

    def look_into(self, paths: Iterable[Path]) -> None:
        """Search files, and all files in folders."""
        for path in paths:
            for file in _files(path):
                self._look_into_file(file)

    def look_into_database(self, after: str) -> None:
        """Search every table after a test; SQLite's file as bytes, since it still contains deleted rows."""
        if connection.vendor == "sqlite":
            name = str(connection.settings_dict["NAME"])
            logs = [_read_if_there(Path(name + ending)) for ending in ("-wal", "-journal")]
            self.look(b"".join([_read_locked(name), *logs]), f"{name} after {after}")
            return
        with connection.cursor() as cursor:
            for table in find_tables_with_rows(cursor, connection.introspection.table_names(cursor)):
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
                for row in cursor.fetchall():
                    self.look(b" ".join(_raw(value) for value in row), f"table {table} after {after}")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Search every log record and every response of Django in this process."""
        handle = logging.Logger.handle  # a handler would not get the records of loggers that do not propagate

        def handled(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.look(_record_text(record), f"log of {record.name}")
            handle(logger, record)

        logging.Logger.handle = handled  # type: ignore[method-assign]
        _watching.append(self)
        try:
            yield
        finally:
            logging.Logger.handle = handle  # type: ignore[method-assign]
            _watching.remove(self)

    def _look_into_file(self, file: Path) -> None:
        overlap = max(map(len, self.needles.values()))  # a needle may span two pieces
        try:
            with file.open("rb") as stream:
                rest = b""
                while piece := stream.read(_AT_ONCE):
                    self.look(rest + piece, str(file))
                    rest = piece[-overlap:]
        except FileNotFoundError:
            return


_watching: list[Canary] = []


def search_responses(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Return the outermost middleware of the tests' settings, which sees what clients get."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not response.streaming and request.path_info != REGISTER:
            for canary in _watching:
                canary.look(response.content + repr(response.headers).encode(), f"response of {request.path_info}")
        return response

    return respond


def _needles(core: str) -> dict[str, bytes]:
    """Return the canary in each encoding, by a name for reports."""
    raw = core.encode()
    needles = {
        "plain": raw,
        "in upper case": raw.upper(),
        "in hex": raw.hex().encode(),
        "in upper hex": raw.hex().upper().encode(),
        "percent-encoded": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "as JSON escapes": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
    }
    for before in range(3):  # as many bytes precede it, modulo the three that base64 takes at once
        first, end = -(-8 * before // 6), 8 * (before + len(raw)) // 6  # the characters that have nothing but its bits
        inner = base64.b64encode(bytes(before) + raw)[first:end]
        needles[f"in base64 behind {before} bytes"] = inner
        needles[f"in hex of base64 behind {before} bytes"] = inner.hex().encode()
    return needles


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or all files in a folder, without installed packages and checkouts."""
    if path.is_file():
        yield path
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name not in SKIPPED_FOLDERS]
        yield from (Path(folder, file) for file in files if Path(folder, file).is_file())


def _read_locked(database: str) -> bytes:
    descriptor = _descriptor(database)
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _read_if_there(log: Path) -> bytes:
    try:
        return log.read_bytes()
    except FileNotFoundError:  # SQLite deletes it with the last connection of any process
        return b""


@cache
def _descriptor(database: str) -> int:
    # Never closed: closing it would release the locks that SQLite has on the file in this process.
    return os.open(database, os.O_RDONLY)


def _record_text(record: logging.LogRecord) -> bytes:
    """Return all text that a log record may be rendered to."""
    text = f"{record.msg!r} {record.args!r} {vars(record)!r}"
    if record.exc_info:
        text += "".join(traceback.format_exception(*record.exc_info))
    return text.encode("utf-8", "backslashreplace")


def _raw(value: object) -> bytes:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    return str(value).encode("utf-8", "backslashreplace")


SUITE = Canary()
"""The canary of this test process."""
