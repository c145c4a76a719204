"""Build virtual environments, one per set of requirements, with uv where it is installed."""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from runqy.git.commands import CommandRunner
from workers.deploy.exec_child import launcher_command, launcher_environment

CREATE_TIMEOUT_S = 300.0
_COMPLETE = ".runqy-complete"
_NESTED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]*(?P<file>\S+)")
_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_COMMENT_LINE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_REMOTE_URL = re.compile(r"\b(?!file:)[\w+.-]+://\S*")
_LOCAL = re.compile(r"^(?:-e|--editable|\.)|\bfile:|\.(?:whl|zip|tar|t[gbx]z2?)\b")
_PATH = re.compile(r"/|(?:@|(?:^|\s)(?:-e|--editable|-f|--find-links))[ =]*[^\s-]")
"""A path, in a line without remote URLs: something with a slash, or what follows a name or an option that takes one."""
_INHERITED = re.compile(
    r"PATH|HOME|USER|TMPDIR|LANG|LC_.*|(?:PIP|UV|SSL|CURL|REQUESTS)_.*|(?:http|https|no|all)_proxy", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """The requirements of a virtual environment."""

    file: Path | None
    """The requirements file; None: no requirements."""
    commit: str
    has_system_packages: bool = False

    @property
    def key(self) -> str:
        """Return a text that changes when the environment would."""
        digest = hashlib.sha256(f"{sys.version}\n{sys.prefix}\n{self.has_system_packages}\n".encode())
        for path, text in _requirement_texts(self.file):
            digest.update(f"{path.name}\n{text}\n".encode())
            if any(_is_from_checkout(line, path.parent) for line in _logical_lines(text)):
                digest.update(self.commit.encode())  # packages from the checkout change with it
        return digest.hexdigest()[:16]


def is_complete(folder: Path) -> bool:
    """Return whether an environment was built completely."""
    return (folder / _COMPLETE).is_file()


def build_environment(
    folder: Path, requirements: Requirements, commands: CommandRunner, *, timeout_s: float, is_isolated: bool = True
) -> None:
    """Build a virtual environment in a folder and mark it as complete. Raise DeploymentFailed."""
    shutil.rmtree(folder, ignore_errors=True)
    env = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    env |= {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_INPUT": "1"}
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
        install = (
            [uv, "pip", "install", "--quiet", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
        )
        args = [*install, "-r", str(requirements.file)]
        # installed packages may run code of their own
        commands.run(
            args,
            launcher=launcher_command(is_isolated=is_isolated),
            env=launcher_environment(env),
            timeout_s=timeout_s,
            cwd=requirements.file.parent,
        )
    (folder / _COMPLETE).touch()


def _find_uv() -> str | None:
    """Return the path of uv: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _pip_options(env: dict[str, str]) -> None:
    """Return pip's index settings as uv's."""
    for ours, pips in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_INDEX", "PIP_EXTRA_INDEX_URL")):
        if pips in env and not {ours, "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"} & env.keys():
            env[ours] = env[pips]
    if "PIP_FIND_LINKS" in env:
        env.setdefault("UV_FIND_LINKS", ",".join(env["PIP_FIND_LINKS"].split()))


def _requirement_texts(file: Path | None) -> list[tuple[Path, str]]:
    """Return a requirements file and the files it includes, each once."""
    found: dict[Path, str] = {}
    waiting = [file] if file else []
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found[path] = path.read_text(errors="replace")
        matches = (_NESTED.match(line) for line in _logical_lines(found[path]))
        waiting += [path.parent / match["file"] for match in matches if match]
    return list(found.items())


def _logical_lines(text: str) -> list[str]:
    """Return the lines of a requirements file as pip reads them: joined where they continue, without comments."""
    joined = _CONTINUED.sub("", _COMMENT_LINE.sub("", text))  # a line that is a comment does not continue
    return [_COMMENT.sub("", line).strip() for line in joined.splitlines()]


def _is_from_checkout(line: str, folder: Path) -> bool:
    """Return whether a line may name something in the checkout, which changes with the commit.

    A line too many causes a rebuild, one too few leaves old code in the environment.
    """
    if nested := _NESTED.match(line):  # what cannot be read here may lead to such a line
        return not _REMOTE_URL.match(nested["file"]) and not (folder / nested["file"]).is_file()
    requirement = line.partition(";")[0]
    return bool(_LOCAL.search(requirement) or _PATH.search(_REMOTE_URL.sub("", requirement)))
