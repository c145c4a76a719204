"""The folder in which the web processes of a gunicorn keep their metrics: prometheus_client's multi-process mode."""

import os
import shutil
import socket
import time
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PARENT = "metrics"
_ABANDONED_S = 24 * 3600
"""Web processes write at least once a second: a folder without writes for this long is not in use."""


def set_folder(home: Path) -> Path:
    """Return the folder of this gunicorn, and set the variable by which prometheus_client finds it.

    A folder that the operator has set is kept. One under RUNQY_HOME is replaced: it was inherited from the master that
    this one takes over from (SIGUSR2).
    """
    given = os.environ.get(VARIABLE, "")
    parent = home / _PARENT
    is_chosen = bool(given) and Path(given).parent != parent
    folder = Path(given) if is_chosen else parent / f"{socket.gethostname()}-{os.getpid()}"
    os.environ[VARIABLE] = str(folder)
    return folder


def prepare_folder(folder: Path, home: Path) -> None:
    """Create the folder, empty, and delete those of gunicorn masters that have ended."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)
    parent = home / _PARENT
    for other in parent.iterdir() if parent.is_dir() else ():
        if other != folder and _is_abandoned(other):
            shutil.rmtree(other, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Return whether the master of a folder has ended. On another host that is assumed after a day without writes."""
    host, _, pid = folder.name.rpartition("-")
    if not folder.is_dir() or not pid.isdigit():
        return False
    if host == socket.gethostname():
        return not _is_running(int(pid))
    times = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
    return time.time() - max(times) > _ABANDONED_S


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs as another user
        return True
    return True
