"""Deploys a queue: newest code of its branch, its virtual environment, and the last good pair when that fails.

<folder>/<queue>/checkouts/<commit>-<source>/    never changed once it has its name
<folder>/<queue>/environments/<requirements>/    likewise, once complete
<folder>/<queue>/current.json                    the last pair that was deployed whole
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runqy.errors import DeploymentFailed, DeploymentRefused
from runqy.git.commands import Commands
from runqy.git.credentials import GitCredentials, git_environment
from runqy.git.sources import Source, checked_path
from runqy.structs import read_json
from workers.deploy.environments import Requirements, build_environment, is_complete
from workers.deploy.git import Git
from workers.deploy.locks import FolderLease, exclusive, is_leased, remove_lock_file

_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentOrder:
    """What to deploy, and where."""

    queue: str
    source: Source
    requirements_file: str = "requirements.txt"
    folder: Path
    credentials: GitCredentials = field(default_factory=GitCredentials)
    has_system_packages: bool = False
    install_timeout_s: float = 1800.0
    is_isolated: bool = True
    """Isolate what installs the requirements: packages may run code of their own."""


class DeploymentRecord(msgspec.Struct, frozen=True):
    """The last good deployment, as `current.json` keeps it."""

    url: str
    branch: str
    code_path: str
    commit: str
    checkout: str
    environment: str

    def is_of(self, source: Source) -> bool:
        """Return whether it came from the same source."""
        return (self.url, self.branch, self.code_path) == (source.url, source.branch, source.code_path)


@dataclass(frozen=True, slots=True)
class Deployed:
    """Code and environment that are ready to run; other workers do not delete them before `release`."""

    commit: str
    code_dir: Path
    environment: Path
    problem: str
    """Why this is an older deployment than the one asked for; empty when it is the newest."""
    _leases: tuple[FolderLease, ...] = field(repr=False)

    def release(self) -> None:
        """Allow the folders to be deleted."""
        for lease in self._leases:
            lease.release()


def deploy(order: DeploymentOrder, commands: Commands) -> Deployed:
    """Bring the newest code and its environment here, or keep to the last good ones of the same source.

    Raises DeploymentRefused, DeploymentStopped, or DeploymentFailed when there is nothing to fall back to.
    """
    if not _QUEUE_NAME.fullmatch(order.queue):
        raise DeploymentRefused(f"{order.queue!r} cannot be the name of a queue")
    home = order.folder / order.queue
    with _disk_errors():
        for name in ("checkouts", "environments"):
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / ".lock", commands):
            last = _read_record(home, order.source)
            try:
                with _disk_errors():
                    record = _deploy_newest(home, order, commands)
            except DeploymentFailed as error:
                if last is None:
                    raise
                return _deployed(home, last, problem=error.detail)
            deployed = _deployed(home, record, problem="")
            _remove_unused(home)
            return deployed


def _deploy_newest(home: Path, order: DeploymentOrder, commands: Commands) -> DeploymentRecord:
    """Check out the tip of the branch, build what it requires, and record the pair."""
    source = order.source
    with git_environment(source, order.credentials) as env:
        checkout, commit = _check_out(home / "checkouts", source, Git(source, commands, env))
    code_dir = _inside(checkout, source.code_path)
    file = _inside(checkout, source.code_path, checked_path(order.requirements_file, "requirements_file"))
    requirements = Requirements(
        file=file if file.is_file() and file.read_text(errors="replace").strip() else None,
        commit=commit,
        has_system_packages=order.has_system_packages,
    )
    if not code_dir.is_dir():
        raise DeploymentFailed(f"{source.url} has no folder {source.code_path!r} on {source.branch}")
    environment = home / "environments" / requirements.key
    if not is_complete(environment):
        limit_s, is_isolated = order.install_timeout_s, order.is_isolated
        build_environment(environment, requirements, commands, timeout_s=limit_s, is_isolated=is_isolated)
    record = DeploymentRecord(source.url, source.branch, source.code_path, commit, checkout.name, environment.name)
    _write_whole(home / "current.json", msgspec.json.encode(record))
    return record


def _check_out(checkouts: Path, source: Source, git: Git) -> tuple[Path, str]:
    """Return the checkout of the newest commit, made now unless it is there already, and the commit."""
    tip = git.find_tip()
    if (existing := checkouts / _checkout_name(tip.commit, source)).is_dir():
        return existing, tip.commit
    unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=checkouts))
    try:
        commit = git.check_out(tip, unfinished)
        checkout = checkouts / _checkout_name(commit, source)
        if not checkout.is_dir():
            unfinished.rename(checkout)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return checkout, commit


def _checkout_name(commit: str, source: Source) -> str:
    """Name a checkout for what is in it."""
    place = hashlib.sha256(f"{source.url}\n{source.code_path}".encode()).hexdigest()
    return f"{commit[:16]}-{place[:8]}"


def _inside(checkout: Path, *parts: str) -> Path:
    """Return a path in a checkout. Raises DeploymentRefused where a symbolic link leads out of it."""
    path = checkout.joinpath(*parts)
    if not path.resolve().is_relative_to(checkout.resolve()):
        raise DeploymentRefused(f"{'/'.join(parts)!r} leads out of the repository")
    return path


def _deployed(home: Path, record: DeploymentRecord, *, problem: str) -> Deployed:
    """Lease a pair and return it."""
    checkout, environment = home / "checkouts" / record.checkout, home / "environments" / record.environment
    leases = (FolderLease(checkout), FolderLease(environment))
    return Deployed(record.commit, _inside(checkout, record.code_path).resolve(), environment, problem, leases)


def _read_record(home: Path, source: Source) -> DeploymentRecord | None:
    """Return the last good deployment if it is of this source and still there."""
    try:
        record = read_json((home / "current.json").read_bytes(), DeploymentRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    is_whole = (home / "checkouts" / record.checkout).is_dir() and is_complete(
        home / "environments" / record.environment
    )
    return record if is_whole and record.is_of(source) else None


def _remove_unused(home: Path) -> None:
    """Delete checkouts and environments that no worker has leased."""
    for parent in (home / "checkouts", home / "environments"):
        for folder in [entry for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()]:
            if not is_leased(folder):
                shutil.rmtree(folder, ignore_errors=True)
                remove_lock_file(folder)


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise what the disk says as a failed deployment."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DeploymentFailed(f"{error.filename or 'deployment folder'}: {reason}") from error
