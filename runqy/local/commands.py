"""Runs one management command to its end, for a stack that is starting."""

from runqy.errors import StackFailed
from runqy.local.processes import Process, Program
from runqy.local.stop_signals import StopSignals


def run_command(program: Program, stop: StopSignals, timeout_s: float = 300.0) -> str:
    """Run a command and return what it said. Raises StackFailed with that when it fails, StopAsked on a signal."""
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
        raise StackFailed(f"the {program.name} {process.describe_end()}.\n{said}".rstrip())
    return said
