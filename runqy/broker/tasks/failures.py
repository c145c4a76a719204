"""The failed attempts that a task remembers, in the field `failures` of its hash."""

from collections.abc import Iterator

import msgspec

from runqy.broker.replies import read_number, read_time_ns, replace_nul
from runqy.broker.streams.run_log import cut_error
from runqy.core.formats.json_decoding import read_json


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed."""

    attempt: int
    worker_id: str
    ended_ns: int
    error_class: str = ""
    error: str = ""
    """An excerpt; empty also if later attempts took its place."""


def make_failure(error: str, error_class: str = "") -> bytes:
    """Return what a script adds to a task about an attempt that failed (`lua/parts/add_failure.lua`)."""
    text = cut_error(error).encode("utf-8", "replace").decode()
    return msgspec.json.encode(error_class) + b"\t" + msgspec.json.encode(text)


def read_failures(content: bytes) -> Iterator[FailedAttempt]:
    """Yield the attempts that a task remembers, oldest first. Lines that no script of ours wrote are left out."""
    for line in content.split(b"\n"):
        try:
            run, *texts = line.split(b"\t")
            attempt, worker_id, ended = read_json(run, tuple[str, str, str])
            number, ended_ns = read_number(attempt.encode()), read_time_ns(ended.encode())
            if number is None or ended_ns is None:
                continue
            error_class, error = (*(replace_nul(read_json(text, str)) for text in texts), "", "")[:2]
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            continue
        yield FailedAttempt(
            attempt=number, worker_id=worker_id, ended_ns=ended_ns, error_class=error_class, error=error
        )
