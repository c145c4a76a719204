"""Executes a child's program, after asking the kernel to end it together with the worker.

Run by path in an isolated interpreter of its own: `exec_child.py <pid of the worker> <program> <argument>...`
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # the worker ended before the kernel knew
    try:
        os.execvp(program[0], program)  # noqa: S606 (no shell is the point)
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
