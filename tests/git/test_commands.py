"""Programs of a deployment: their output, their time limit, and what they leave behind."""

import os
import sys
import threading
from pathlib import Path

import pytest

from runqy.core.git.commands import CommandMissing, CommandRunner, CommandTimedOut, LimitExceeded
from runqy.core.git.limits import Limits
from runqy.errors import DeploymentFailed, DeploymentStopped

ENV = {"PATH": os.environ["PATH"]}
LEAVES_SLEEPER = "setsid sh -c 'echo $$ > new; mv new sleeper; exec sleep 600' & while ! [ -s sleeper ]; do :; done; "
"""A shell that leaves a process in a session of its own, which keeps the pipes open."""


@pytest.fixture
def folder(tmp_path: Path):
    """Return a folder; the sleeper that a program left in it is ended afterwards."""
    yield tmp_path
    if (tmp_path / "sleeper").exists():
        os.kill(int((tmp_path / "sleeper").read_text()), 9)


def test_processes_left_behind_are_not_waited_for(folder: Path) -> None:
    command = LEAVES_SLEEPER + "echo done"

    assert CommandRunner().run(["sh", "-c", command], env=ENV, timeout_s=60, cwd=folder) == "done\n"


def test_error_of_a_program_is_reported_although_it_leaves_processes_behind(folder: Path) -> None:
    command = LEAVES_SLEEPER + "echo no such branch >&2; exit 3"

    with pytest.raises(DeploymentFailed, match="no such branch"):
        CommandRunner().run(["sh", "-c", command], env=ENV, timeout_s=60, cwd=folder)


def test_time_limit_holds_although_a_process_is_left_behind(folder: Path) -> None:
    command = LEAVES_SLEEPER + "exec sleep 600"

    with pytest.raises(CommandTimedOut):
        CommandRunner().run(["sh", "-c", command], env=ENV, timeout_s=0.5, cwd=folder)


def test_stop_ends_a_program_that_left_a_process_behind(folder: Path) -> None:
    commands = CommandRunner()
    stopper = threading.Thread(target=_stop_once, args=(commands, folder / "ready"))
    stopper.start()

    with pytest.raises(DeploymentStopped):
        commands.run(["sh", "-c", LEAVES_SLEEPER + "> ready; exec sleep 600"], env=ENV, timeout_s=60, cwd=folder)
    stopper.join()


def test_a_long_output_arrives_whole() -> None:
    printed = CommandRunner().run(["sh", "-c", "head -c 1000000 /dev/zero; sleep 1.2; echo end"], env=ENV, timeout_s=60)

    assert (len(printed), printed[-4:]) == (1_000_004, "end\n")


def test_only_the_end_of_an_endless_output_is_kept() -> None:
    with pytest.raises(LimitExceeded, match=r"^head prints more than 2 MiB$"):
        CommandRunner().run(["head", "-c", "50000000", "/dev/zero"], env=ENV, timeout_s=60)
    with pytest.raises(DeploymentFailed, match=r"^sh failed: \*{1996} end$"):
        CommandRunner().run(
            ["sh", "-c", "head -c 50000000 /dev/zero | tr '\\0' '*' >&2; echo ' end' >&2; exit 1"],
            env=ENV,
            timeout_s=60,
        )


def test_a_program_that_needs_too_much_memory_names_the_limit() -> None:
    limits = Limits(memory_bytes=64 << 20)

    with pytest.raises(LimitExceeded, match=r"^python needs more than 64 MiB of memory: "):
        CommandRunner().run([sys.executable, "-c", "bytearray(100 << 20)"], env=ENV, timeout_s=60, limits=limits)


def test_a_program_that_is_missing_is_named_with_limits_too() -> None:
    with pytest.raises(CommandMissing, match=r"^runqy-nothing is not installed$"):
        CommandRunner().run(["runqy-nothing"], env=ENV, timeout_s=60, limits=Limits(memory_bytes=64 << 20))


def _stop_once(commands: CommandRunner, file: Path) -> None:
    """Stop commands once a file is there."""
    while not file.exists():
        threading.Event().wait(0.01)
    commands.stop()
