"""Finds the queue files of a local stack: those of QUEUE_WORKERS_DIR, and without it the examples."""

import os
from dataclasses import dataclass
from pathlib import Path

from queues.config import parse_queue_file
from queues.definitions import QueueSpec
from runqy import settings
from runqy.errors import StackFailed
from runqy.local.examples import has_examples, publish_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFiles:
    """A folder of queue files, and what they define."""

    folder: Path
    queues: tuple[QueueSpec, ...]


def find_queue_files(home: Path) -> QueueFiles:
    """Read the files that the stack is to load. Raises StackFailed when one of them is wrong."""
    if os.environ.get("QUEUE_WORKERS_DIR") or os.environ.get("QUEUE_WORKERS_DIR_FILE"):
        folder = settings.QUEUE_WORKERS_DIR
        if not folder.is_dir():
            raise StackFailed(f"QUEUE_WORKERS_DIR is no folder: {folder}")
    elif has_examples():
        folder = publish_examples(home)
    else:
        raise StackFailed("there are no queues to serve: set QUEUE_WORKERS_DIR to a folder with queue files.")
    return QueueFiles(folder=folder, queues=_read_folder(folder))


def _read_folder(folder: Path) -> tuple[QueueSpec, ...]:
    """Read all files of a folder."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    files = [parse_queue_file(path.read_bytes(), file=str(path)) for path in paths]
    if errors := [str(error) for file in files for error in file.errors]:
        raise StackFailed("\n".join(["there is something wrong in the queue files.", *errors]))
    return tuple(spec for file in files for spec in file.specs)
