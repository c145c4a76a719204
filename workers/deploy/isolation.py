"""Keeps programs of queues, and what installs them, away from other processes, and ends them with the worker."""

import os
import sys
from pathlib import Path

from workers.deploy.launch import ABI_OF_REFER, ISOLATED, SHARED, landlock_abi

_LAUNCH = str(Path(__file__).with_name("launch.py"))


def launcher(*, is_isolated: bool, lifeline: int | None = None) -> list[str]:
    """Return what stands before a program in the command that starts it; see launch.py.

    The process that is started has the program's exit status. `lifeline` is a descriptor that it inherits: the end of a
    pipe, whose other end is open in this process as long as the program may run.
    """
    own_pid, mode = str(os.getpid()), ISOLATED if is_isolated else SHARED
    return [sys.executable, "-I", "-S", _LAUNCH, own_pid, "-" if lifeline is None else str(lifeline), mode]


def is_isolation_supported() -> bool:
    """Return whether the kernel can keep programs from reading each other's environment."""
    return sys.platform == "linux" and landlock_abi() >= ABI_OF_REFER
