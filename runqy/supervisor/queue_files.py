"""The queue files of a local stack: those of QUEUE_WORKERS_DIR, or else the examples, with a clone to deploy from."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from queues.definitions import QueueSpec
from runqy import settings
from runqy.errors import StackFailed

REPOSITORY = Path(__file__).parents[2]
PLACEHOLDER_URL = "https://example.com/runqy.git"
BRANCH = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFiles:
    """A folder of queue files, and the queues they define."""

    folder: Path
    queues: tuple[QueueSpec, ...]


def find_queue_files(home: Path) -> QueueFiles:
    """Read the files that the stack loads. Raise StackFailed if one of them is invalid."""
    if os.environ.get("QUEUE_WORKERS_DIR") or os.environ.get("QUEUE_WORKERS_DIR_FILE"):
        folder = settings.QUEUE_WORKERS_DIR
        if not folder.is_dir():
            raise StackFailed(f"QUEUE_WORKERS_DIR is not a folder: {folder}")
    elif has_examples():
        folder = publish_examples(home)
    else:
        raise StackFailed("there are no queues: set QUEUE_WORKERS_DIR to a folder with queue files.")
    return QueueFiles(folder=folder, queues=_check_folder(folder))


def _check_folder(folder: Path) -> tuple[QueueSpec, ...]:
    """Return the queues of a folder; a process with Django validates them."""
    command = (
        sys.executable,
        "-m",
        "runqy.management_commands",
        "load_queues",
        "--check",
        "--skip-checks",
        str(folder),
    )
    checked = subprocess.run(command, capture_output=True, check=False)
    if checked.returncode:
        raise StackFailed(f"the queue files have errors.\n{checked.stderr.decode(errors='replace').rstrip()}")
    return tuple(QueueSpec.decode(line) for line in checked.stdout.splitlines())


def has_examples() -> bool:
    """Return whether this is a git checkout with the examples, not an installed package."""
    return (REPOSITORY / ".git").exists() and (REPOSITORY / "examples").is_dir()


def publish_examples(home: Path) -> Path:
    """Update the clone and the queue files that name it. Return the folder of queue files."""
    clone = home / "examples.git"
    if not (clone / "HEAD").exists():
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(clone))
        _git("--git-dir", str(clone), "config", "uploadpack.allowFilter", "true")
    _git(
        *("--git-dir", str(clone), "fetch", "--quiet", "--force", "--depth=1", "--update-shallow"),
        *(REPOSITORY.as_uri(), f"+HEAD:refs/heads/{BRANCH}"),
    )
    return _write_queue_files(home / "queues", clone.as_uri())


def _write_queue_files(folder: Path, url: str) -> Path:
    """Write each example's queue file with the URL of the clone, and remove those of deleted examples."""
    folder.mkdir(mode=0o700, exist_ok=True)
    sources = sorted((REPOSITORY / "examples").glob("*/queue.yaml"))
    written = {folder / f"{source.parent.name}.yaml": source.read_text("utf-8") for source in sources}
    for path in set(folder.glob("*.yaml")) - written.keys():
        path.unlink()
    for path, text in written.items():
        path.write_text(text.replace(PLACEHOLDER_URL, url), "utf-8")
    return folder


def _git(*args: str) -> None:
    """Run git. Raise StackFailed with its error output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # set inside a git hook
    done = subprocess.run(["git", *args], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackFailed(
            f"the repository of the examples cannot be created: {done.stderr.strip() or f'git {args[0]} failed'}"
        )
