"""Builds virtual environments, one for each set of requirements, with uv where it is installed."""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from runqy.git.commands import Commands
from workers.deploy.isolation import launcher

CREATE_TIMEOUT_S = 300.0
_COMPLETE = ".runqy-complete"
_NESTED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]*(?P<file>\S+)")
_LOCAL = re.compile(r"^(?:-e|--editable|\.|/|file:)|@ *file:|^[^#]*\.(?:whl|tar\.gz|zip)\b")
_PASSED = re.compile(
    r"PATH|HOME|USER|TMPDIR|LANG|LC_.*|(?:PIP|UV|SSL|CURL|REQUESTS)_.*|(?:http|https|no|all)_proxy", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a virtual environment has to hold."""

    file: Path | None
    """The requirements file; None: nothing."""
    commit: str
    has_system_packages: bool = False

    @property
    def key(self) -> str:
        """Return a text that changes when the environment would."""
        digest = hashlib.sha256(f"{sys.version}\n{sys.prefix}\n{self.has_system_packages}\n".encode())
        for path, text in _requirement_texts(self.file):
            digest.update(f"{path.name}\n{text}\n".encode())
            if any(_LOCAL.search(line.strip()) for line in text.splitlines()):
                digest.update(self.commit.encode())  # packages from the checkout change with it
        return digest.hexdigest()[:16]


def is_complete(folder: Path) -> bool:
    """Return whether an environment was built completely."""
    return (folder / _COMPLETE).is_file()


def build_environment(
    folder: Path, requirements: Requirements, commands: Commands, *, timeout_s: float, is_isolated: bool = True
) -> None:
    """Make the virtual environment in a folder, which becomes complete last. Raises DeploymentFailed."""
    shutil.rmtree(folder, ignore_errors=True)
    env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    env |= {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_INPUT": "1"}
    _follow_pip(env)
    uv = _find_uv()
    create = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-I", "-m", "venv"]
    if requirements.has_system_packages:
        create.append("--system-site-packages")
    if not uv and requirements.file is None:
        create.append("--without-pip")
    commands.run([*create, str(folder)], env=env, timeout_s=CREATE_TIMEOUT_S)
    if requirements.file is not None:
        python = str(folder / "bin" / "python")
        install = (
            [uv, "pip", "install", "--quiet", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
        )
        args = [*install, "-r", str(requirements.file)]
        # what is installed may run code of its own
        commands.run(
            args, launcher=launcher(is_isolated=is_isolated), env=env, timeout_s=timeout_s, cwd=requirements.file.parent
        )
    (folder / _COMPLETE).touch()


def _find_uv() -> str | None:
    """Return uv's path: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _follow_pip(env: dict[str, str]) -> None:
    """Pass pip's index settings on to uv."""
    for ours, pips in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_INDEX", "PIP_EXTRA_INDEX_URL")):
        if pips in env and not {ours, "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"} & env.keys():
            env[ours] = env[pips]
    if "PIP_FIND_LINKS" in env:
        env.setdefault("UV_FIND_LINKS", ",".join(env["PIP_FIND_LINKS"].split()))


def _requirement_texts(file: Path | None) -> list[tuple[Path, str]]:
    """Return a requirements file and those it names, each once."""
    found: dict[Path, str] = {}
    waiting = [file] if file else []
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found[path] = path.read_text(errors="replace")
        matches = (_NESTED.match(line.strip()) for line in found[path].splitlines())
        waiting += [path.parent / match["file"] for match in matches if match]
    return list(found.items())
