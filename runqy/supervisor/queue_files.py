"""The queue files of a local stack: those of QUEUE_WORKERS_DIR, or the examples, which are deployed from a clone."""

import os
from dataclasses import dataclass
from pathlib import Path

from queues.definitions import QueueSpec
from runqy import settings
from runqy.errors import StackFailed
from runqy.supervisor.process_specs import python_command
from runqy.supervisor.processes import capture
from runqy.supervisor.stop_signals import StopSignals

REPOSITORY = Path(__file__).parents[2]
PLACEHOLDER_URL = "https://example.com/runqy.git"
BRANCH = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFiles:
    """A folder of queue files, and the queues they define."""

    folder: Path
    queues: tuple[QueueSpec, ...]


def find_queue_files(home: Path, stop: StopSignals) -> QueueFiles:
    """Return the files that the stack loads. Raise StackFailed if one of them is invalid, Interrupted on a signal."""
    if os.environ.get("QUEUE_WORKERS_DIR") or os.environ.get("QUEUE_WORKERS_DIR_FILE"):
        folder = settings.QUEUE_WORKERS_DIR
        if not folder.is_dir():
            raise StackFailed(f"QUEUE_WORKERS_DIR is not a folder: {folder}")
    elif has_examples():
        folder = publish_examples(home, stop)
    else:
        raise StackFailed("there are no queues: set QUEUE_WORKERS_DIR to a folder with queue files.")
    return QueueFiles(folder=folder, queues=_check_folder(folder, stop))


def _check_folder(folder: Path, stop: StopSignals) -> tuple[QueueSpec, ...]:
    # In a process of its own: validation needs Django, which the supervisor does not load.
    command = python_command(
        "runqy.supervisor.management_commands", "load_queues", "--check", "--skip-checks", str(folder)
    )
    checked = capture(command, stop)
    if checked.returncode:
        raise StackFailed(f"the queue files have errors.\n{checked.stderr.decode(errors='replace').rstrip()}")
    return tuple(QueueSpec.decode(line) for line in checked.stdout.splitlines())


def has_examples() -> bool:
    """Return whether this is a git checkout with the examples, and not an installed package."""
    return (REPOSITORY / ".git").exists() and (REPOSITORY / "examples").is_dir()


def publish_examples(home: Path, stop: StopSignals) -> Path:
    """Update the clone of this repository and the queue files that refer to it. Return the folder of queue files.

    Raise StackFailed, or Interrupted on a signal.
    """
    clone = home / "examples.git"
    if not (clone / "HEAD").exists():
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(clone), stop=stop)
        _git("--git-dir", str(clone), "config", "uploadpack.allowFilter", "true", stop=stop)
    _git(
        *("--git-dir", str(clone), "fetch", "--quiet", "--force", "--depth=1", "--update-shallow"),
        *(REPOSITORY.as_uri(), f"+HEAD:refs/heads/{BRANCH}"),
        stop=stop,
    )
    return _write_queue_files(home / "queues", clone.as_uri())


def _write_queue_files(folder: Path, url: str) -> Path:
    """Write each example's queue file with the URL of the clone. Remove those of deleted examples."""
    folder.mkdir(mode=0o700, exist_ok=True)
    sources = sorted((REPOSITORY / "examples").glob("*/queue.yaml"))
    written = {folder / f"{source.parent.name}.yaml": source.read_text("utf-8") for source in sources}
    for path in set(folder.glob("*.yaml")) - written.keys():
        path.unlink()
    for path, text in written.items():
        path.write_text(text.replace(PLACEHOLDER_URL, url), "utf-8")
    return folder


def _git(*args: str, stop: StopSignals) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # git sets them in hooks
    done = capture(["git", *args], stop, env)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"git {args[0]} failed"
        raise StackFailed(f"the repository of the examples cannot be created: {reason}")
