"""Start a program that the worker did not write, isolate it from other processes, and end it with the worker.

Run by path, in a Python process of its own:

    exec_child.py <pid of the parent> <control_fd> isolated|shared <program>...

`control_fd` is the descriptor of a socket whose other end the worker has. This process then leads the program's process
group and exits with the program's status. When the program ends, or when the socket closes because the worker ended, it
kills the program's remaining children and grandchildren, on Linux also those in sessions of their own. If the system
refuses to start the program, it first sends the number of the error, as one byte, through the socket. If `control_fd`
is negative, this process is replaced by the program. On Linux the kernel then sends the program the signal of that
number when the parent ends (PR_SET_PDEATHSIG).

The program's environment consists of this process's variables with the prefix PROGRAM_VARIABLE, without the prefix.
Variables that a queue configures (LD_AUDIT, GLIBC_TUNABLES) therefore do not affect this process, which is not
isolated.

With Landlock, an isolated program runs in a domain of its own. It cannot read the environment, memory and descriptors
of processes outside the domain, even those of the same user. Since Linux 6.12 it cannot signal them either. Files and
network are not restricted. The isolation does not apply to root.
"""

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446  # the same on all architectures
CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
ACCESS_FS_REFER = 1 << 13  # to move files between folders: a domain that handles files must allow it explicitly
SCOPE_SIGNAL = 1 << 1
ABI_OF_REFER, ABI_OF_SCOPES = 2, 6
ISOLATED, SHARED = "isolated", "shared"
PROGRAM_VARIABLE = "RUNQY_PROGRAM_"
KILL_TIMEOUT_S = 2.0

libc = ctypes.CDLL(None, use_errno=True)


class RulesetAttributes(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = [("handled_fs", ctypes.c_uint64), ("handled_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class PathBeneathAttributes(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_, _layout_ = 1, "ms"  # what _pack_ implies; Python 3.14 warns if it is not said
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def launcher_command(
    *, is_isolated: bool, control_fd: int | None = None, death_signal: int = signal.SIGKILL
) -> list[str]:
    """Return the command that starts a program through this file, to which the program is appended.

    The launcher is started with `launcher_environment` and exits with the program's status. `control_fd` is the
    descriptor of an inherited socket: the program is killed when the other end of the pair is closed. Without one, the
    program gets `death_signal` when the thread that started it ends.
    """
    own_pid, mode = str(os.getpid()), ISOLATED if is_isolated else SHARED
    return [
        sys.executable,
        "-I",
        "-S",
        os.path.abspath(__file__),
        own_pid,
        str(-death_signal if control_fd is None else control_fd),
        mode,
    ]


def launcher_environment(program: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's environment for a program that is to have this environment."""
    return {PROGRAM_VARIABLE + name: value for name, value in program.items()}


def find_isolation_obstacle() -> str:
    """Return why the kernel cannot isolate programs from each other, or an empty string."""
    if sys.platform != "linux":
        return "Only Linux has Landlock."
    if (abi := landlock_abi()) >= ABI_OF_REFER:
        return ""
    code = ctypes.get_errno() if abi < 0 else errno.ENOSYS
    # Container runtimes refuse what their seccomp profile does not list with EPERM, or as if the kernel lacked it.
    reasons = {
        errno.EPERM: "The seccomp profile of this container forbids Landlock.",
        errno.EOPNOTSUPP: "Landlock is disabled in this kernel; its boot parameter lsm= enables it.",
        errno.ENOSYS: "This kernel has no Landlock (Linux 5.19 or newer), or a container's seccomp profile hides it.",
    }
    return reasons.get(code, f"Landlock cannot be used: {os.strerror(code)}.")


def landlock_abi() -> int:
    """Return the kernel's version of Landlock; 0 or less if it is missing or disabled."""
    return int(libc.syscall(SYS_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION))


def enter_domain() -> bool:
    """Enter a Landlock domain that forbids only access across its boundary; return whether it succeeded."""
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
    parent, control_fd, mode, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    if control_fd < 0:
        execute(program, mode, parent, death_signal=-control_fd)
    supervise(program, mode, control_fd)


def execute(program: list[str], mode: str, parent: int, *, death_signal: int = signal.SIGKILL) -> NoReturn:
    """Replace this process by the program, unless the parent has already ended."""
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before prctl took effect
        if mode == ISOLATED:
            enter_domain()
    try:
        os.execvpe(program[0], program, _program_environment())  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(2, f"{program[0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)  # as shells do


def _program_environment() -> dict[bytes, bytes]:
    prefix = PROGRAM_VARIABLE.encode()
    return {name[len(prefix) :]: value for name, value in os.environb.items() if name.startswith(prefix)}


def supervise(program: list[str], mode: str, control_fd: int) -> NoReturn:
    """Run the program until it or the worker ends, kill its remaining processes, and exit with its status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # they reach the whole group, and the program handles them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = os.getpid()
    try:
        null = os.open(os.devnull, os.O_RDWR)
        has_ended, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        pid = os.fork()
    except OSError as error:
        os.write(control_fd, bytes([error.errno or 0]))
        os._exit(126)
    if pid == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in (control_fd, has_ended, wakeup, null):
            os.close(descriptor)
        execute(program, mode, own)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)  # else the worker would not notice that the program closes its own
    status = _wait_for_end(pid, control_fd, has_ended)
    _kill_remains(pid)
    _exit_as(status)


def _wait_for_end(pid: int, control_fd: int, has_ended: int) -> int | None:
    """Return the program's wait status when it ends; None if the control socket closes before."""
    poll = select.poll()
    poll.register(control_fd, select.POLLIN)
    poll.register(has_ended, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if has_ended in ready:
            os.read(has_ended, 4096)
            status = _reap(pid)
            if status is not None:
                return status
        if control_fd in ready:
            return None


def _reap(pid: int) -> int | None:
    """Reap all children that have ended. Return the program's wait status, or None if it still runs."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = status


def _kill_remains(pid: int) -> None:
    """Kill the program and its descendants. Orphans become children of this process, the subreaper."""
    # In rounds: killing one process makes its children ours.
    end_s = time.monotonic() + KILL_TIMEOUT_S
    children = _children() or [pid]
    while children and time.monotonic() < end_s:
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
        _reap(pid)
        children = _children()


def _children() -> list[int]:
    """Return the ids of this process's children; empty where the system does not list them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _exit_as(status: int | None) -> NoReturn:
    """Exit as the program did: with its status, or by its signal. If the worker ended (None), kill the rest of the
    process group.
    """
    if status is not None and os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = signal.SIGKILL if status is None else os.WTERMSIG(status)
    # The program has dumped its own core, if any; this process must not dump another.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.set_wakeup_fd(-1)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    if status is None:
        os.killpg(0, number)
    os.kill(os.getpid(), number)
    os._exit(1)


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
