"""The deployments of a queue that are kept on this machine: `kept.json` in the queue's folder, the newest first."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runqy.core.formats.json_decoding import read_json
from runqy.core.git.sources import Source
from workers.deploy.virtualenvs import is_complete


class CommitInfo(msgspec.Struct, frozen=True):
    """What git says about a commit. Texts of the repository's authors."""

    subject: str = ""
    author: str = ""
    committed_at_s: int = 0


class KeptDeployment(msgspec.Struct, frozen=True):
    """A complete deployment."""

    url: str
    branch: str
    code_path: str
    commit: str
    checkout: str
    environment: str
    info: CommitInfo = CommitInfo()

    def has_source(self, source: Source) -> bool:
        return (self.url, self.branch, self.code_path) == (source.url, source.branch, source.code_path)

    @property
    def folders(self) -> tuple[str, str]:
        return self.checkout, self.environment


def read_kept(home: Path) -> list[KeptDeployment]:
    """Return the deployments whose folders still exist, the newest first."""
    try:
        kept = read_json((home / "kept.json").read_bytes(), list[KeptDeployment])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [
        each
        for each in kept
        if (home / "checkouts" / each.checkout).is_dir() and is_complete(home / "environments" / each.environment)
    ]


def write_kept(home: Path, newest: KeptDeployment, before: Sequence[KeptDeployment], *, count: int) -> None:
    """Put a deployment first, and forget what is beyond `count`."""
    kept = [newest, *(each for each in before if each.folders != newest.folders)][:count]
    unfinished = home / ".kept.json.new"
    unfinished.write_bytes(msgspec.json.encode(kept))
    os.replace(unfinished, home / "kept.json")
