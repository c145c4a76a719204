"""Keeps programs of queues, and what installs them, away from the worker's other processes."""

import os
import sys
from pathlib import Path

from workers.deploy.exec_isolated import ABI_OF_REFER, ISOLATED, SHARED, landlock_abi

_EXEC_ISOLATED = str(Path(__file__).with_name("exec_isolated.py"))


def launcher(*, is_isolated: bool) -> list[str]:
    """Return what stands before a program in a command that ends it with this process, and isolates it if asked to.

    The process that is started becomes the program: its pid and its exit status are the program's. See exec_isolated.
    """
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", _EXEC_ISOLATED, str(os.getpid()), ISOLATED if is_isolated else SHARED]


def is_isolation_supported() -> bool:
    """Return whether the kernel can keep programs from reading each other's environment."""
    return sys.platform == "linux" and landlock_abi() >= ABI_OF_REFER
