"""Runs one management command to its end, for a stack that is starting."""

from runqy.errors import StackFailed
from runqy.local.processes import Process, Program
from runqy.local.stop_signals import StopSignals


class CommandFailed(StackFailed):
    """A command ended with an error."""

    def __init__(self, detail: str, exit_code: int | None) -> None:
        """Take what happened, and the status it ended with; None: it did not end in time."""
        super().__init__(detail)
        self.exit_code = exit_code


def run_command(program: Program, stop: StopSignals, timeout_s: float = 300.0) -> str:
    """Run a command and return what it said. Raises CommandFailed with that when it fails, StopAsked on a signal."""
    start = program.log.stat().st_size if program.log and program.log.exists() else 0
    process = Process(program)
    try:
        code = process.wait(stop, timeout_s)
    finally:
        process.end()
    said = ""
    if program.log is not None:
        with program.log.open("rb") as log:
            log.seek(start)
            said = log.read().decode(errors="replace").strip()
    if code != 0:
        raise CommandFailed(f"the {program.name} {process.describe_end()}.\n{said}".rstrip(), code)
    return said
