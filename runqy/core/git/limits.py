"""Limits of memory and disk for the programs of a deployment."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from runqy import clock
from runqy.core.concurrency.processes import start_process
from runqy.core.formats import sizes

MEASURE_INTERVAL_S = 0.25
REST_FACTOR = 4
"""After a measurement, the next waits for this many times as long as that took: large folders take long."""

# With SIGXFSZ ignored, a program that writes too much gets an error to report, and is not killed.
_SHELL = 'trap "" XFSZ; {limits} 2>/dev/null; exec "$@"'
# A file with holes is larger than the disk that it takes, a small one is smaller. The largest line of du is the total.
_MEASURE = 'du -sck -- "$@"; du -sck --apparent-size -- "$@"'
_OUT_OF_MEMORY = re.compile(
    r"^(?:(?:fatal|error): .*)?"
    r"(?:out of memory|Cannot allocate memory|MemoryError|memory allocation of \d+ bytes failed)",
    re.IGNORECASE | re.MULTILINE,
)
_FILE_TOO_LARGE = re.compile(r"File too large|signal 25\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use. None: unlimited."""

    memory_bytes: int | None = None
    """For each of its processes, without pages that it only reads from files."""
    disk_bytes: int | None = None
    """For each file that it writes, and for `folders` together."""
    folders: Sequence[Path] = ()
    setting: str = ""
    """The setting that raises `disk_bytes`, for the error message."""

    @property
    def launcher(self) -> list[str]:
        """The words before the program's own that limit it and all that it starts."""
        limits = []
        if self.memory_bytes is not None:
            limits.append(f"ulimit -d {self.memory_bytes >> 10}")
        if self.disk_bytes is not None:
            limits.append(f"ulimit -f {self.disk_bytes >> 9}")
        return ["/bin/sh", "-c", _SHELL.format(limits=" 2>/dev/null; ".join(limits)), "sh"] if limits else []

    def find_exceeded(self, errors: str) -> str | None:
        """Return which limit a failed program exceeded, by its error output; None if it failed for another reason."""
        if self.memory_bytes is not None and _OUT_OF_MEMORY.search(errors):
            return f"needs more than {sizes.humanize(self.memory_bytes)} of memory"
        return self.too_large if self.disk_bytes is not None and _FILE_TOO_LARGE.search(errors) else None

    @property
    def too_large(self) -> str:
        """The reason for a program that wrote too much."""
        name = f" ({self.setting})" if self.setting else ""
        return f"writes more than {sizes.humanize(self.disk_bytes or 0)}{name}"


NO_LIMITS = Limits()


class DiskUsage:
    """Measures folders while a program writes to them. `du` does it, so that large folders do not keep this process
    busy.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._next_s = self._started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def is_exceeded(self) -> bool:
        """Return whether the last measurement is above the limit. Begin the next one when it is due."""
        if not self.limits.folders or self.limits.disk_bytes is None:
            return False
        now_s = clock.monotonic_s()
        if self._process is None:
            if now_s >= self._next_s:
                self._start()
            return False
        if self._process.poll() is None:
            return False
        self._next_s = now_s + max(MEASURE_INTERVAL_S, REST_FACTOR * (now_s - self._started_s))
        return self._finish() > self.limits.disk_bytes

    def is_exceeded_now(self) -> bool:
        self.close()
        if not self.limits.folders or self.limits.disk_bytes is None:
            return False
        self._start()
        return self._finish() > self.limits.disk_bytes

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._finish()

    def _start(self) -> None:
        self._started_s = clock.monotonic_s()
        words = ["sh", "-c", _MEASURE, "sh", *map(str, self.limits.folders)]
        self._process, (output,) = start_process(words, pipes=("stdout",), stderr=subprocess.DEVNULL)
        self._process.stdout = FileIO(output)

    def _finish(self) -> int:
        """Return the number of bytes measured, without files that vanished meanwhile."""
        process, self._process = self._process, None
        output, _ = process.communicate() if process else (b"", b"")
        return max((int(line.split()[0]) << 10 for line in output.splitlines()), default=0)


def remove_folder(folder: Path) -> None:
    """Remove a folder, whatever a repository put into it."""
    # Not shutil.rmtree, which fails below about 1,000 levels of folders.
    subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
