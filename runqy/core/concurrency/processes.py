"""Start processes. Tell a machine that is out of resources from a program that cannot be started."""

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from runqy.errors import DeploymentFailed, ResourcesExhausted

# Not ENOSPC: what fills a disk is the deployment, and to go back to another one frees it.
_RESOURCES = {
    errno.EMFILE: "file descriptors of this process",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads",
    errno.ENOBUFS: "memory for sockets",
}


def find_exhausted(number: int | None) -> str:
    """Return which resource of the machine is exhausted by the number of an error; empty if it says something else."""
    if number is None or number not in _RESOURCES:
        return ""
    return f"the machine is out of {_RESOURCES[number]} ({errno.errorcode[number]}: {os.strerror(number)})"


def find_exhausted_in(text: str, *, has_memory_limit: bool) -> str:
    """Return which resource of the machine was exhausted by a program's error output; empty if none.

    A program with a limit of its own that runs out of memory has reached that, unless it was about to fork.
    """
    for number in (errno.ENFILE, errno.EMFILE, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
        lines = [line for line in text.splitlines() if os.strerror(number) in line]
        if number == errno.ENOMEM and has_memory_limit:
            lines = [line for line in lines if "fork" in line]
        if lines:
            return find_exhausted(number)
    return ""


def os_failure(error: OSError | MemoryError, what: str) -> DeploymentFailed | ResourcesExhausted:
    """Return the error for what the operating system refused. Unless its resources are exhausted, it is permanent."""
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (errno.ENOMEM, None)
    if exhausted := find_exhausted(number):
        return ResourcesExhausted(f"{what}: {exhausted}")
    return DeploymentFailed(f"{what}: {reason or error}")


@contextmanager
def os_failures(what: str) -> Iterator[None]:
    """Raise DeploymentFailed or ResourcesExhausted for what the operating system refuses in the block."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise os_failure(error, what) from error


def start_process(
    args: Sequence[str], *, pipes: Sequence[str], **options: Any
) -> "tuple[subprocess.Popen[bytes], list[int]]":
    """Start a process with a pipe for each of some streams ("stdin", "stdout", "stderr"). Return our ends of them too.

    Raise OSError, and leave nothing open then: until Python 3.12, Popen leaves the pipes open that it has made when the
    next one fails.
    """
    with ExitStack() as on_failure, ExitStack() as theirs:
        ours = []
        for name in pipes:
            reader, writer = os.pipe()
            own, options[name] = (writer, reader) if name == "stdin" else (reader, writer)
            ours.append(own)
            on_failure.callback(os.close, own)
            theirs.callback(os.close, options[name])
        process = subprocess.Popen(args, **options)
        on_failure.pop_all()
    return process, ours
