"""Executes a program that the worker did not write, after asking the kernel to keep it apart from other processes.

Run by path, in a Python process of its own: `exec_isolated.py <pid of the worker> isolated|shared <program>...`

The kernel ends the program together with the worker (PR_SET_PDEATHSIG). Where it has Landlock, an isolated program
enters a domain of its own: it can neither read environment, memory and descriptors of processes outside of it, even of
the same user, nor, from Linux 6.12 on, signal them. Files and network are as before. Root is not kept out by it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446  # the same on all architectures
CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
ACCESS_FS_REFER = 1 << 13  # moving files between folders, which a domain that handles files has to allow expressly
SCOPE_SIGNAL = 1 << 1
ABI_OF_REFER, ABI_OF_SCOPES = 2, 6
ISOLATED, SHARED = "isolated", "shared"

libc = ctypes.CDLL(None, use_errno=True)


class RulesetAttributes(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = [("handled_fs", ctypes.c_uint64), ("handled_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class PathBeneathAttributes(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock; 0 or less: it has none, or it is switched off."""
    return int(libc.syscall(SYS_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION))


def enter_domain() -> bool:
    """Enter a Landlock domain that forbids nothing but what crosses its border; return whether that worked."""
    abi = landlock_abi()
    if abi < ABI_OF_REFER:
        return False
    if abi >= ABI_OF_SCOPES:
        ruleset = _create_ruleset(RulesetAttributes(scoped=SCOPE_SIGNAL), ctypes.sizeof(RulesetAttributes))
    else:
        ruleset = _create_ruleset(RulesetAttributes(handled_fs=ACCESS_FS_REFER), ctypes.sizeof(ctypes.c_uint64))
        if ruleset >= 0 and not _allow_everywhere(ruleset, ACCESS_FS_REFER):
            return False
    if ruleset < 0:
        return False
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    has_entered: bool = libc.syscall(SYS_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return has_entered


def main() -> None:
    """Replace this process by the program."""
    parent, mode, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # the worker ended before the kernel knew
    if mode == ISOLATED:
        enter_domain()
    try:
        os.execvp(program[0], program)  # noqa: S606 (no shell is the point)
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        sys.exit(127)


def _create_ruleset(attributes: RulesetAttributes, size: int) -> int:
    return int(libc.syscall(SYS_CREATE_RULESET, ctypes.byref(attributes), size, 0))


def _allow_everywhere(ruleset: int, access: int) -> bool:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = PathBeneathAttributes(allowed_access=access, parent_fd=root)
        return int(libc.syscall(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)) == 0
    finally:
        os.close(root)


if __name__ == "__main__":
    main()
