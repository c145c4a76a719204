"""Read /proc about processes. A process that ends meanwhile is not an error."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until


def is_alive(pid: int) -> bool:
    return _state_of(Path(f"/proc/{pid}")) not in ("", "Z")


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Stop processes until the end of a `with` block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            # SIGSTOP takes effect when a process is scheduled next: a signal sent before then would come first.
            threads = Path(f"/proc/{pid}/task")
            wait_until(lambda threads=threads: {_state_of(thread) for thread in threads.iterdir()} == {"T"})
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def get_children(pid: int) -> list[int]:
    """Return the processes that the main thread of a process started; an empty list if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def get_command_line(pid: int) -> str:
    """Return the command line of a process; empty for a zombie or a process that has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _state_of(process: Path) -> str:
    """Return the letter of the state of a process or thread; empty if it has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command_lines() -> Iterator[bytes]:
    """Yield the command line of each process of the machine. Its words end with NUL."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes()


def make_shadowing_modules(folder: Path) -> Path:
    """Create a folder of modules with the names of the server's; a file `imported` names those that were imported."""
    for name in (
        "alerts",
        "batches",
        "django",
        "gunicorn",
        "queues",
        "runqy",
        "schedules",
        "tasks",
        "vaults",
        "webhooks",
        "workers",
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(
            "import pathlib\n"
            "with open(pathlib.Path(__file__).parents[1] / 'imported', 'a') as file:\n"
            "    file.write(f'{__name__}\\n')\n"
            "raise ImportError('imported from the working directory')\n"
        )
    return folder
