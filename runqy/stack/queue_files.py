"""The queue files of a local stack: those of QUEUE_WORKERS_DIR, or the examples, for which a repository is made."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from queues.definitions import QueueSpec
from runqy import settings
from runqy.errors import StackFailed
from runqy.stack.processes import capture, python_command
from runqy.stack.stop_signals import StopSignals

_PACKAGE = Path(__file__).parents[1]
# The wheel has them in this package; a clone beside it.
EXAMPLES = _PACKAGE / "examples" if (_PACKAGE / "examples").is_dir() else _PACKAGE.parent / "examples"
PLACEHOLDER_URL = "https://example.com/examples.git"
BRANCH = "main"
_AUTHOR = {
    f"GIT_{role}_{name}": value
    for role in ("AUTHOR", "COMMITTER")
    # A fixed date: the same files are the same commit, which workers have deployed already.
    for name, value in (("NAME", "runqy"), ("EMAIL", "examples@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
}


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
    else:
        folder = publish_examples(home, stop)
    return QueueFiles(folder=folder, queues=_check_folder(folder, stop))


def _check_folder(folder: Path, stop: StopSignals) -> tuple[QueueSpec, ...]:
    # In a process of its own: validation needs Django, which the supervisor does not load.
    command = python_command("runqy.manage", "load_queues", "--check", "--skip-checks", str(folder))
    checked = capture(command, stop)
    if checked.returncode:
        raise StackFailed(f"the queue files have errors.\n{checked.stderr.decode(errors='replace').rstrip()}")
    return tuple(QueueSpec.decode(line) for line in checked.stdout.splitlines())


def publish_examples(home: Path, stop: StopSignals) -> Path:
    """Commit the examples to a repository, and write the queue files that refer to it. Return their folder.

    Raise StackFailed, or Interrupted on a signal.
    """
    repository = home / "examples.git"
    if not (repository / "HEAD").exists():
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(repository), stop=stop)
        _git("--git-dir", str(repository), "config", "uploadpack.allowFilter", "true", stop=stop)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # an index in the repository could be locked by a start that was killed
        git = ("--git-dir", str(repository), "--work-tree", str(EXAMPLES))
        env = {"GIT_INDEX_FILE": f"{folder}/index"}
        # Installers compile what they install.
        _git(*git, "add", "--all", "--force", "--", ".", ":(exclude)*__pycache__*", stop=stop, env=env)
        tree = _git(*git, "write-tree", stop=stop, env=env)
    commit = _git(*git, "commit-tree", tree, "-m", "The examples of runqy", stop=stop, env=_AUTHOR)
    _git(*git, "update-ref", f"refs/heads/{BRANCH}", commit, stop=stop)
    return _write_queue_files(home / "queues", repository.as_uri())


def _write_queue_files(folder: Path, url: str) -> Path:
    """Write each example's queue file with the URL of the repository. Remove those of deleted examples."""
    folder.mkdir(mode=0o700, exist_ok=True)
    written = {
        folder / f"{source.parent.name}.yaml": source.read_text("utf-8") for source in EXAMPLES.glob("*/queue.yaml")
    }
    for path in set(folder.glob("*.yaml")) - written.keys():
        path.unlink()
    for path, text in written.items():
        path.write_text(text.replace(PLACEHOLDER_URL, url), "utf-8")
    return folder


def _git(*args: str, stop: StopSignals, env: Mapping[str, str] | None = None) -> str:
    ambient = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # hooks have them
    done = capture(["git", *args], stop, {**ambient, **(env or {})})
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"git {args[0]} failed"
        raise StackFailed(f"the repository of the examples cannot be created: {reason}")
    return done.stdout.decode().strip()
