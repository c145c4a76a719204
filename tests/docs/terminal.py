"""A shell that runs the blocks of a page one after another, as a reader's terminal does."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.support.waiting import eventually

BLOCK_S = 240.0
"""How long a busy machine may take for a block, which may start servers and install packages."""


class Terminal:
    """A bash that keeps its folder and its variables from block to block."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._scripts = Path(tempfile.mkdtemp(prefix="blocks-", dir=folder))
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._count = 0
        self._seen = 0
        self._send("trap : INT")  # Ctrl-C ends what runs in the shell, not the shell

    def run(self, code: str, *, fails: bool = False) -> tuple[int, str]:
        """Run a block, and return its exit status and its output.

        It ends at the first command that fails, and so does the shell, unless `fails` expects that of the last one.
        """
        self._start(code, options="" if fails else "set -e -o pipefail;")
        return self.wait()

    def start(self, code: str, *, until: str) -> None:
        """Start a block that continues to run, and wait until it has printed a text."""
        self._start(code, options="")
        eventually(lambda: until in self._new_output() or self._ended(), within_s=BLOCK_S, what=self._new_output)
        assert until in self._new_output(), self._new_output()

    @property
    def is_busy(self) -> bool:
        return self._count > 0 and not self._ended()

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end of what runs."""
        os.killpg(self._bash.pid, signal.SIGINT)
        self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for the end of a block, and return its exit status and its output."""
        eventually(self._ended, within_s=BLOCK_S, what=self._new_output)
        match = self._end()
        assert match, f"the shell ended: {self._new_output()}"
        return int(match[1]), self._new_output()[: match.start()]

    def close(self) -> None:
        if self.is_busy:
            self.interrupt()
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.close()
        self._bash.wait(timeout=BLOCK_S)
        self._reader.join()
        self._bash.stdout.close()

    def _start(self, code: str, *, options: str) -> None:
        self._count += 1
        self._seen = len(self._output)
        script = self._scripts / str(self._count)
        script.write_text(code)
        # With `set -e` the shell ends. A shell for each block would lose the folder and the variables.
        marker = f'echo "{self._marker()}$?"'
        self._send(f"trap '{marker}' EXIT; {options} . {script} </dev/null; {marker}; trap - EXIT; set +e +o pipefail")

    def _marker(self) -> str:
        return f"<<end of block {self._count}: "

    def _end(self) -> re.Match[str] | None:
        return re.search(re.escape(self._marker()) + r"(\d+)\n", self._new_output())

    def _ended(self) -> bool:
        return bool(self._end()) or self._bash.poll() is not None

    def _send(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\n".encode())
        self._bash.stdin.flush()

    def _new_output(self) -> str:
        return self._output[self._seen :].decode(errors="replace")

    def _read(self) -> None:
        assert self._bash.stdout is not None
        while part := os.read(self._bash.stdout.fileno(), 65536):
            self._output += part
