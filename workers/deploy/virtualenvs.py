"""Build virtual environments, one for each set of requirements, with uv if it is installed."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from runqy.core.git.commands import CommandRunner, LimitExceeded
from runqy.core.git.limits import Limits, remove_folder
from workers.deploy.exec_child import launcher_command, launcher_environment

CREATE_TIMEOUT_S = 300.0
INSTALL_MEMORY_BYTES = (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4) >> 20 << 20
"""The limit of each process of an installation: three quarters of the machine's memory, as a compiler may need much."""
_COMPLETE = ".runqy-complete"
_INHERITED = re.compile(
    r"PATH|HOME|USER|TMPDIR|LANG|LC_.*|(?:PIP|UV|SSL|CURL|REQUESTS)_.*|(?:http|https|no|all)_proxy", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """The requirements of a virtual environment, and what their installation may use."""

    file: Path | None
    """The requirements file; None without requirements."""
    has_system_packages: bool = False
    cache: Path
    """Where uv and pip keep packages. Not shared between queues, because code that is built can write to it."""
    max_bytes: int
    """The limit for environment and cache together."""


def is_complete(folder: Path) -> bool:
    return (folder / _COMPLETE).is_file()


def build_environment(
    folder: Path, requirements: Requirements, commands: CommandRunner, *, timeout_s: float, is_isolated: bool = True
) -> None:
    """Build a virtual environment in a folder, and mark it as complete at the end. Raise DeploymentFailed."""
    remove_folder(folder)
    env = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    env |= {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_INPUT": "1"}
    env |= {"UV_CACHE_DIR": str(requirements.cache), "PIP_CACHE_DIR": str(requirements.cache)}
    _pip_options(env)
    uv = _find_uv()
    create = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-I", "-m", "venv"]
    if requirements.has_system_packages:
        create.append("--system-site-packages")
    if not uv and requirements.file is None:
        create.append("--without-pip")
    commands.run([*create, str(folder)], env=env, timeout_s=CREATE_TIMEOUT_S)
    if requirements.file is not None:
        python = str(folder / "bin" / "python")
        install = [python, "-P", "-m", "pip", "install", "-q"]  # -P: the repository may have a folder named pip
        if uv:
            install = [uv, "pip", "install", "--quiet", "--python", python]
        try:
            # Isolated: packages may run code of their own while they are installed.
            commands.run(
                [*install, "-r", str(requirements.file)],
                launcher=launcher_command(is_isolated=is_isolated),
                env=launcher_environment(env),
                timeout_s=timeout_s,
                cwd=requirements.file.parent,
                limits=Limits(
                    memory_bytes=INSTALL_MEMORY_BYTES,
                    disk_bytes=requirements.max_bytes,
                    folders=(folder, requirements.cache),
                    setting="RUNQY_MAX_DEPLOYMENT_BYTES",
                ),
            )
        except LimitExceeded:
            for unfinished in (folder, requirements.cache):
                remove_folder(unfinished)
            raise
    (folder / _COMPLETE).touch()


def _find_uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _pip_options(env: dict[str, str]) -> None:
    """Give uv the settings of pip's indexes, unless it has its own."""
    for ours, pips in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_INDEX", "PIP_EXTRA_INDEX_URL")):
        if pips in env and not {ours, "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"} & env.keys():
            env[ours] = env[pips]
    if "PIP_FIND_LINKS" in env:
        env.setdefault("UV_FIND_LINKS", ",".join(env["PIP_FIND_LINKS"].split()))
