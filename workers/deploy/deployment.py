"""Deploy a queue: a commit or the newest code of its branch, and its virtual environment, or the last good pair if that
fails; or the code of a folder of this machine.

<folder>/<queue>/checkouts/<commit>-<source>/    never changed after it is named
<folder>/<queue>/environments/<requirements>/    never changed after it is complete
<folder>/<queue>/cache/                          of uv and pip
<folder>/<queue>/kept.json                       the last complete deployments
"""

import contextlib
import errno
import hashlib
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runqy.broker.workers.records import DeploymentStep
from runqy.core.concurrency.processes import os_failure
from runqy.core.formats.json_decoding import read_json
from runqy.core.formats.names import QUEUE_NAME
from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials, git_environment
from runqy.core.git.limits import Limits, remove_folder
from runqy.core.git.remotes import HARDENED_OPTIONS, RemoteRef
from runqy.core.git.sources import Source, parse_path
from runqy.errors import DeploymentFailed, DeploymentRefused
from workers.deploy import read_checkout
from workers.deploy.checkouts import MEMORY_BYTES, CommitInfo, Git, KeptDeployment, read_kept, write_kept
from workers.deploy.exec_child import launcher_command, launcher_environment
from workers.deploy.locks import FolderLease, exclusive, is_leased, remove_lock_file
from workers.deploy.virtualenvs import Requirements, build_environment, is_complete

READ_TIMEOUT_S = 60.0
CHECKOUT_SHARE = 10
"""How many times the limit of a checkout that of an environment is: repositories have code, and few large files."""
READ_LIMITS = Limits(memory_bytes=256 << 20)
LOCAL_COMMIT = "local"
"""The commit of a folder that is no work tree of git."""
_QUEUE_NAME = re.compile(QUEUE_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What to deploy, and where."""

    queue: str
    source: Source
    requirements_file: str = "requirements.txt"
    folder: Path
    local_dir: Path | None = None
    """The folder that is used in place of a checkout, with its changes."""
    credentials: GitCredentials = field(default_factory=GitCredentials)
    has_system_packages: bool = False
    install_timeout_s: float = 1800.0
    max_deployment_bytes: int = 20 << 30
    """The limit for a virtual environment and the queue's cache of packages together."""
    commit: str = ""
    """The commit to deploy; empty: the newest of the branch."""
    requires_ref: bool = False
    """Refuse the commit unless a branch or tag contains it: git hosts also serve commits of forks and pull requests."""
    kept: int = 1
    """How many deployments are kept, with the newest one: these need no git and no installation."""
    is_isolated: bool = True
    """Isolate the installation of requirements, because packages may run code of their own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The step at which a deployment failed, and its commit if that was fetched."""

    step: DeploymentStep = DeploymentStep.START
    commit: str = ""
    info: CommitInfo = field(default_factory=CommitInfo)


NO_FAILURE = Failure()


class StepFailed(DeploymentFailed):
    """A step of the deployment failed."""

    def __init__(self, detail: str, failure: Failure) -> None:
        super().__init__(detail)
        self.failure = failure


def failure_of(error: Exception) -> Failure:
    return error.failure if isinstance(error, StepFailed) else NO_FAILURE


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
    info: CommitInfo
    problem: str
    """Why this is not the newest deployment; empty if it is."""
    failure: Failure
    """At which step the newest deployment failed."""
    _leases: tuple[FolderLease, ...] = field(repr=False)

    def release(self) -> None:
        for lease in self._leases:
            lease.release()


def deploy(spec: DeploymentSpec, commands: CommandRunner) -> Deployed:
    """Deploy the requested code and its environment, or fall back to the last good ones of the same source.

    Raise DeploymentRefused, DeploymentStopped, or DeploymentFailed if there is nothing to fall back to. Raise
    ResourcesExhausted if the machine is at fault, also if there is: older code would find the same machine.
    """
    if not _QUEUE_NAME.fullmatch(spec.queue):
        raise DeploymentRefused(f"{spec.queue!r} is not a valid queue name")
    home = spec.folder / spec.queue
    with _translate_disk_errors():
        for name in ("checkouts", "environments"):
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / ".lock", commands):
            if spec.local_dir is not None:
                return _use_folder(home, spec.local_dir, spec, commands)
            kept = read_kept(home)
            try:
                with _translate_disk_errors():
                    newest = _deploy_requested(home, spec, commands, kept)
            except DeploymentFailed as error:
                last = next((each for each in kept if each.has_source(spec.source)), None)
                if last is None:
                    raise
                return _to_deployed(home, last, problem=error)
            # Leased before unused folders are removed, which these would be among.
            deployed = _to_deployed(home, newest)
            _remove_unused(home, {folder for each in read_kept(home) for folder in each.folders})
            return deployed


def _deploy_requested(
    home: Path, spec: DeploymentSpec, commands: CommandRunner, kept: Sequence[KeptDeployment]
) -> KeptDeployment:
    """Check out a commit, build its environment, and record both."""
    source = spec.source
    checkout = home / "checkouts" / _checkout_name(spec.commit, source)
    if spec.commit and checkout.is_dir():
        commit, info = spec.commit, next((each.info for each in kept if each.checkout == checkout.name), CommitInfo())
    else:
        checkout, commit, info = _fetch(home, spec, commands)
    place = f"{source.url} on {source.branch}"
    try:
        environment = _make_environment(home, checkout, spec, commands, commit=commit, place=place)
    except DeploymentFailed as error:
        raise StepFailed(error.detail, Failure(failure_of(error).step, commit, info)) from error
    names = checkout.name, environment.name
    newest = KeptDeployment(source.url, source.branch, source.code_path, commit, *names, info)
    write_kept(home, newest, kept, count=spec.kept)
    return newest


def _fetch(home: Path, spec: DeploymentSpec, commands: CommandRunner) -> tuple[Path, str, CommitInfo]:
    """Return the checkout of a commit, the commit, and what git says about it. Raise StepFailed."""
    try:
        with _translate_disk_errors(), git_environment(spec.source, spec.credentials) as env:
            git = Git(spec.source, commands, env, max_bytes=spec.max_deployment_bytes // CHECKOUT_SHARE)
            if spec.commit and spec.requires_ref:
                _require_ref(home, git, spec.commit)
            checkout, commit = _check_out(home / "checkouts", spec.source, git, wanted=spec.commit)
            return checkout, commit, git.describe(checkout)
    except DeploymentFailed as error:
        raise StepFailed(error.detail, Failure(DeploymentStep.FETCH)) from error


def _use_folder(home: Path, folder: Path, spec: DeploymentSpec, commands: CommandRunner) -> Deployed:
    """Return a folder of this machine with its environment. Raise DeploymentFailed."""
    if not folder.is_dir():
        raise DeploymentFailed(f"deployment.local_dir (RUNQY_LOCAL_DIR): {folder} is not a folder on this machine")
    # Unlike that of a checkout, its content may change. An environment with packages from it is built each time.
    environment = _make_environment(home, folder, spec, commands, commit=uuid.uuid4().hex, place=str(folder))
    deployed = Deployed(
        commit=_find_commit(folder, spec, commands),
        code_dir=folder / spec.source.code_path,
        environment=environment,
        info=CommitInfo(),
        problem="",
        failure=NO_FAILURE,
        _leases=(FolderLease(environment),),
    )
    _remove_unused(home, ())
    return deployed


def _find_commit(folder: Path, spec: DeploymentSpec, commands: CommandRunner) -> str:
    """Return the commit of a work tree, with `-dirty` if files of it were changed since."""
    describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return commands.run(
            # The folder may belong to another user.
            ["git", *HARDENED_OPTIONS, "-c", "safe.directory=*", "-C", str(folder), *describe],
            # Isolated, since its configuration can name programs that filter files.
            launcher=launcher_command(is_isolated=spec.is_isolated),
            env=launcher_environment({name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}),
            timeout_s=READ_TIMEOUT_S,
            limits=Limits(memory_bytes=MEMORY_BYTES),
        ).strip()
    except DeploymentFailed:
        return LOCAL_COMMIT


def _make_environment(  # noqa: PLR0913 (what it depends on)
    home: Path, code: Path, spec: DeploymentSpec, commands: CommandRunner, *, commit: str, place: str
) -> Path:
    """Return the environment for a checkout or a folder, which is built if it is missing.

    Raise DeploymentRefused, DeploymentFailed, or StepFailed if it cannot be built.
    """
    requirements_file = parse_path(spec.requirements_file, "requirements_file")
    content = _read_content(code, commit, requirements_file, spec, commands)
    if not content.has_code:
        raise DeploymentFailed(f"{place}: there is no folder {spec.source.code_path!r}")
    environment = home / "environments" / content.key
    if not is_complete(environment):
        requirements = Requirements(
            file=code / spec.source.code_path / requirements_file if content.has_requirements else None,
            has_system_packages=spec.has_system_packages,
            cache=home / "cache",
            max_bytes=spec.max_deployment_bytes,
        )
        limit_s, is_isolated = spec.install_timeout_s, spec.is_isolated
        try:
            build_environment(environment, requirements, commands, timeout_s=limit_s, is_isolated=is_isolated)
        except DeploymentFailed as error:
            raise StepFailed(error.detail, Failure(DeploymentStep.INSTALL)) from error
    return environment


def _require_ref(home: Path, git: Git, commit: str) -> None:
    """Raise DeploymentFailed unless a branch or tag contains a commit."""
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=home / "checkouts"))
    try:
        git.require_ref(commit, folder)
    finally:
        remove_folder(folder)


def _check_out(checkouts: Path, source: Source, git: Git, *, wanted: str) -> tuple[Path, str]:
    """Return the checkout of a commit, by default the newest one, and the commit. Create it if it is missing."""
    ref = RemoteRef(ref=wanted, commit=wanted) if wanted else git.resolve_ref()
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


def _to_deployed(home: Path, kept: KeptDeployment, *, problem: DeploymentFailed | None = None) -> Deployed:
    checkout, environment = home / "checkouts" / kept.checkout, home / "environments" / kept.environment
    with ExitStack() as on_failure:
        leases = tuple(_lease(folder, on_failure) for folder in (checkout, environment))
        on_failure.pop_all()
    return Deployed(
        commit=kept.commit,
        code_dir=checkout / kept.code_path,
        environment=environment,
        info=kept.info,
        problem=problem.detail if problem else "",
        failure=failure_of(problem) if problem else NO_FAILURE,
        _leases=leases,
    )


def _lease(folder: Path, on_failure: ExitStack) -> FolderLease:
    lease = FolderLease(folder)
    on_failure.callback(lease.release)
    return lease


def _remove_unused(home: Path, kept: Container[str]) -> None:
    """Remove what no worker uses. What cannot be removed now stays until the next deployment: this one is complete."""
    with contextlib.suppress(OSError):
        for parent in (home / "checkouts", home / "environments"):
            for folder in [entry for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()]:
                if folder.name not in kept and not is_leased(folder):
                    remove_folder(folder)
                    remove_lock_file(folder)


@contextmanager
def _translate_disk_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        place = getattr(error, "filename", None) or "deployment folder"
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DeploymentFailed(f"{place}: the disk is full") from error
        raise os_failure(error, str(place)) from error
