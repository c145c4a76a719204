"""Deploy a queue: the newest code of its branch and its virtual environment, or the last good pair if that fails.

<folder>/<queue>/checkouts/<commit>-<source>/    never changed after it is named
<folder>/<queue>/environments/<requirements>/    never changed after it is complete
<folder>/<queue>/cache/                          of uv and pip
<folder>/<queue>/current.json                    the last complete deployment
"""

import errno
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runqy.errors import DeploymentFailed, DeploymentRefused
from runqy.formats.json_decoding import read_json
from runqy.formats.names import QUEUE_NAME
from runqy.git.commands import CommandRunner
from runqy.git.credentials import GitCredentials, git_environment
from runqy.git.limits import Limits, remove_folder
from runqy.git.sources import Source, parse_path
from workers.deploy import read_checkout
from workers.deploy.checkouts import Git
from workers.deploy.exec_child import launcher_command, launcher_environment
from workers.deploy.locks import FolderLease, exclusive, is_leased, remove_lock_file
from workers.deploy.virtualenvs import Requirements, build_environment, is_complete

READ_TIMEOUT_S = 60.0
READ_LIMITS = Limits(memory_bytes=256 << 20)
_QUEUE_NAME = re.compile(QUEUE_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What to deploy, and where."""

    queue: str
    source: Source
    requirements_file: str = "requirements.txt"
    folder: Path
    credentials: GitCredentials = field(default_factory=GitCredentials)
    has_system_packages: bool = False
    install_timeout_s: float = 1800.0
    max_checkout_bytes: int = 2 << 30
    max_deployment_bytes: int = 20 << 30
    """The limit for a virtual environment and the queue's cache of packages together."""
    is_isolated: bool = True
    """Isolate the installation of requirements, because packages may run code of their own."""


class DeploymentRecord(msgspec.Struct, frozen=True):
    """The last good deployment, as it is stored in `current.json`."""

    url: str
    branch: str
    code_path: str
    commit: str
    checkout: str
    environment: str

    def has_source(self, source: Source) -> bool:
        return (self.url, self.branch, self.code_path) == (source.url, source.branch, source.code_path)


class CheckoutContent(msgspec.Struct, frozen=True):
    """What a deployment depends on in a checkout."""

    has_code: bool = False
    has_requirements: bool = False
    key: str = ""
    """A text that changes whenever the virtual environment would."""
    refused: str = ""
    """Why it must not be deployed; empty if it may."""
    failed: str = ""
    """Why it could not be read; empty if it was."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """Code and environment that are ready to run. Other workers do not delete them before `release`."""

    commit: str
    code_dir: Path
    environment: Path
    problem: str
    """Why this is not the newest deployment; empty if it is."""
    _leases: tuple[FolderLease, ...] = field(repr=False)

    def release(self) -> None:
        for lease in self._leases:
            lease.release()


def deploy(spec: DeploymentSpec, commands: CommandRunner) -> Deployed:
    """Deploy the newest code and its environment, or fall back to the last good ones of the same source.

    Raise DeploymentRefused, DeploymentStopped, or DeploymentFailed if there is nothing to fall back to.
    """
    if not _QUEUE_NAME.fullmatch(spec.queue):
        raise DeploymentRefused(f"{spec.queue!r} is not a valid queue name")
    home = spec.folder / spec.queue
    with _translate_disk_errors():
        for name in ("checkouts", "environments"):
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / ".lock", commands):
            last = _read_record(home, spec.source)
            try:
                with _translate_disk_errors():
                    record = _deploy_newest(home, spec, commands)
            except DeploymentFailed as error:
                if last is None:
                    raise
                return _to_deployed(home, last, problem=error.detail)
            # Leased before unused folders are removed, which these would be among.
            deployed = _to_deployed(home, record, problem="")
            _remove_unused(home)
            return deployed


def _deploy_newest(home: Path, spec: DeploymentSpec, commands: CommandRunner) -> DeploymentRecord:
    """Check out the newest commit, build its environment, and record both."""
    source = spec.source
    with git_environment(source, spec.credentials) as env:
        git = Git(source, commands, env, max_bytes=spec.max_checkout_bytes)
        checkout, commit = _check_out(home / "checkouts", source, git)
    requirements_file = parse_path(spec.requirements_file, "requirements_file")
    content = _read_content(checkout, commit, requirements_file, spec, commands)
    if not content.has_code:
        raise DeploymentFailed(f"{source.url} has no folder {source.code_path!r} on {source.branch}")
    environment = home / "environments" / content.key
    if not is_complete(environment):
        requirements = Requirements(
            file=checkout / source.code_path / requirements_file if content.has_requirements else None,
            has_system_packages=spec.has_system_packages,
            cache=home / "cache",
            max_bytes=spec.max_deployment_bytes,
        )
        limit_s, is_isolated = spec.install_timeout_s, spec.is_isolated
        build_environment(environment, requirements, commands, timeout_s=limit_s, is_isolated=is_isolated)
    record = DeploymentRecord(source.url, source.branch, source.code_path, commit, checkout.name, environment.name)
    _write_atomically(home / "current.json", msgspec.json.encode(record))
    return record


def _check_out(checkouts: Path, source: Source, git: Git) -> tuple[Path, str]:
    """Return the checkout of the newest commit, which is created if it is missing, and the commit."""
    ref = git.resolve_ref()
    if (existing := checkouts / _checkout_name(ref.commit, source)).is_dir():
        return existing, ref.commit
    unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=checkouts))
    try:
        commit = git.check_out(ref, unfinished)
        checkout = checkouts / _checkout_name(commit, source)
        if not checkout.is_dir():
            unfinished.rename(checkout)
    finally:
        remove_folder(unfinished)
    return checkout, commit


def _checkout_name(commit: str, source: Source) -> str:
    """Return the name of a checkout. The same name means the same content."""
    source_hash = hashlib.sha256(f"{source.url}\n{source.code_path}".encode()).hexdigest()
    return f"{commit[:16]}-{source_hash[:8]}"


def _read_content(
    checkout: Path, commit: str, requirements_file: str, spec: DeploymentSpec, commands: CommandRunner
) -> CheckoutContent:
    """Read a checkout in a process of its own. Raise DeploymentRefused, DeploymentFailed."""
    interpreter = f"{sys.version}\n{sys.prefix}\n{spec.has_system_packages}"
    args = [str(checkout), spec.source.code_path, requirements_file, commit, interpreter]
    output = commands.run(
        [sys.executable, "-I", "-S", os.path.abspath(read_checkout.__file__), *args],
        launcher=launcher_command(is_isolated=spec.is_isolated),
        env=launcher_environment({}),
        timeout_s=READ_TIMEOUT_S,
        limits=READ_LIMITS,
    )
    content = read_json(output.encode(), CheckoutContent)
    if content.refused:
        raise DeploymentRefused(content.refused)
    if content.failed:
        raise DeploymentFailed(content.failed)
    return content


def _to_deployed(home: Path, record: DeploymentRecord, *, problem: str) -> Deployed:
    checkout, environment = home / "checkouts" / record.checkout, home / "environments" / record.environment
    leases = (FolderLease(checkout), FolderLease(environment))
    return Deployed(record.commit, checkout / record.code_path, environment, problem, leases)


def _read_record(home: Path, source: Source) -> DeploymentRecord | None:
    """Return the last good deployment, if it has the same source and its folders still exist."""
    try:
        record = read_json((home / "current.json").read_bytes(), DeploymentRecord)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    is_whole = (home / "checkouts" / record.checkout).is_dir() and is_complete(
        home / "environments" / record.environment
    )
    return record if is_whole and record.has_source(source) else None


def _remove_unused(home: Path) -> None:
    for parent in (home / "checkouts", home / "environments"):
        for folder in [entry for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()]:
            if not is_leased(folder):
                remove_folder(folder)
                remove_lock_file(folder)


def _write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


@contextmanager
def _translate_disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DeploymentFailed(f"{error.filename or 'deployment folder'}: {reason}") from error
