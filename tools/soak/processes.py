"""Start processes of the product, find their descendants, and end them."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
END_S = 30.0


class ManagedProcess:
    """A process in a session of its own, whose output is in a file. It can be started again after it has ended."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = dict(env)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raise ProcessLookupError before the first start."""
        if self._popen is None:
            raise ProcessLookupError(self.name)
        return self._popen.pid

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self.is_alive():
            return
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """Kill the process, but not its descendants."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def end(self, *, timeout_s: float = END_S) -> int | None:
        """Terminate the process; return its exit status, or None if it had to be killed."""
        if self._popen is None:
            return 0
        self._popen.send_signal(signal.SIGCONT)
        self._popen.terminate()
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


def children_of(pid: int) -> list[int]:
    """Return the running children of a process. Linux only."""
    with contextlib.suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def descendants_of(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    found = children_of(pid)
    return found + [other for child in found for other in descendants_of(child)]


def command_of(pid: int) -> str:
    """Return a process's command line; empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def processes_in(folder: Path) -> dict[int, str]:
    """Return the processes that work in a folder or name it in their command line, except this one."""
    return {
        pid: command_of(pid)
        for pid in _all_pids()
        if pid != os.getpid() and not _is_zombie(pid) and (_is_in(pid, folder) or str(folder) in command_of(pid))
    }


def count_descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process; 0 once it has ended."""
    with contextlib.suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its threads; 0 once it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def machine_cpu_s() -> float:
    """Return the CPU time of all processes and the kernel since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; return False if the process does not exist."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes by SIGSTOP for the duration of the block."""
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            send_signal(pid, signal.SIGCONT)


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """Let a process open nothing more for the duration of the block. What it has open, as 0, 1 and 2, stays open."""
    with contextlib.suppress(ProcessLookupError):
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def wait_for(look: Callable[[], object], timeout_s: float, what: str) -> float:
    """Wait until a call returns a true value; return how long it took in s. Raise TimeoutError."""
    began_s = time.monotonic()
    while not look():
        if time.monotonic() - began_s > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - began_s


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _is_in(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    return False


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
