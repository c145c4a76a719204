"""Run pytest, and end every process that it leaves behind, however it ends."""

import os
import signal
import socket
import subprocess
import sys

from workers.deploy.exec_child import launcher_command, launcher_environment

LAUNCHED = "PYTEST_IS_LAUNCHED"
"""A variable of the processes that this starts."""


def replace_plain_pytest() -> None:
    """Replace this process by one that ends what it leaves behind, if it is a pytest that somebody started directly."""
    program = sys.orig_argv[1:3]
    is_pytest = program == ["-m", "pytest"] or os.path.basename(program[0] if program else "") in ("pytest", "py.test")
    if is_pytest and LAUNCHED not in os.environ:
        os.execv(sys.executable, [sys.executable, "-m", __name__, *sys.argv[1:]])  # noqa: S606 (of the same arguments)


def main() -> int:
    """Return pytest's exit status. The launcher kills all its descendants when pytest or this process ends."""
    # Where it is set, each process of the product that a test starts compiles all of it: 3 s of CPU time instead of 1.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ[LAUNCHED] = "1"
    inherited, control = socket.socketpair()
    launcher = launcher_command(is_isolated=False, control_fd=inherited.fileno())
    with control:
        process = subprocess.Popen(
            [*launcher, sys.executable, "-m", "pytest", *sys.argv[1:]],
            env=launcher_environment(os.environ),
            start_new_session=True,  # without a control socket the launcher kills its process group
            pass_fds=(inherited.fileno(),),
        )
        inherited.close()
        signal.signal(signal.SIGINT, lambda *_: os.killpg(process.pid, signal.SIGINT))  # pytest then prints its summary
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
