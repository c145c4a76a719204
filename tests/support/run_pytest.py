"""Run pytest, and end every process that it leaves behind, however it ends."""

import os
import signal
import socket
import subprocess
import sys

from workers.deploy.exec_child import launcher_command, launcher_environment


def main() -> int:
    """Return pytest's exit status. The launcher kills all its descendants when pytest or this process ends."""
    # Where it is set, each process of the product that a test starts compiles all of it: 3 s of CPU time instead of 1.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
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
