"""`make release` builds a release, or says what keeps the commit from being one."""

import hashlib
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "runqy"
version = "1.2.0"
readme = "README.md"
requires-python = ">=3.11"
optional-dependencies = {server = []}
"""
SDK_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "runqy-sdk"
version = "0.3.0"
readme = { text = "Handlers.", content-type = "text/plain" }
requires-python = ">=3.10"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a package that has no dependencies, at a commit that is no release."""
    root = tmp_path / "repository"
    (root / "runqy").mkdir(parents=True)
    (root / ".ci").mkdir()
    (root / "sdk/runqy_sdk").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/release.py", root / ".ci")
    files = {"pyproject.toml": PYPROJECT, "README.md": "A queue.\n", "runqy/__init__.py": "", ".gitignore": "dist/\n"}
    files |= {"sdk/pyproject.toml": SDK_PYPROJECT, "sdk/runqy_sdk/__init__.py": ""}
    files |= {"requirements.txt": "", "requirements-worker.txt": "", "CHANGELOG.md": "## [1.2.0] - unreleased\n"}
    for name, content in files.items():
        (root / name).write_text(content)
    git(root, "init", "--quiet")
    commit(root)
    return root


def git(root: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "a change")


def release(root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, root / ".ci/release.py"], cwd="/", capture_output=True, text=True)


def test_unmet_conditions_are_reported_with_what_to_do(repository: Path) -> None:
    reports = []

    (repository / "pyproject.toml").write_text(f'{PYPROJECT}dependencies = ["runqy-sdk[client]==0.2.0"]\n')
    reports.append(release(repository).stderr.splitlines())
    (repository / "pyproject.toml").write_text(f'{PYPROJECT}dependencies = ["runqy-sdk[client]==0.3.0"]\n')
    (repository / "CHANGELOG.md").write_text(f"## [1.2.0] - {date.today()}\n")  # noqa: DTZ011 (as written by hand)
    commit(repository)
    git(repository, "tag", "v1.2.0")
    reports.append(release(repository).stderr.splitlines())
    commit(repository)
    reports.append(release(repository).stderr.splitlines())

    first, lightweight, elsewhere = reports
    assert first == [
        "HEAD is not the release 1.2.0:",
        "- pyproject.toml depends on runqy-sdk[client]==0.2.0, and sdk/pyproject.toml has version 0.3.0. Name that.",
        "- 1 files have changes that are not committed. Commit or stash them.",
        "- CHANGELOG.md: the newest section is '## [1.2.0] - unreleased'. "
        f"Name the version and the day of the release: '## [1.2.0] - {date.today()}'.",  # noqa: DTZ011
        "- There is no tag v1.2.0. When all else is done: git tag --sign v1.2.0 -m 'runqy 1.2.0'",
        "To build it all the same, to try it: make release ARGS=--snapshot",
    ]
    assert [line.partition(" Replace")[0] for line in lightweight[1:-1]] == [
        "- The tag v1.2.0 has no author and no date."
    ]
    assert [line.rpartition(". ")[2] for line in elsewhere[1:-1]] == ["Check out v1.2.0, or choose a new version."]
    assert not (repository / "dist").exists()


def test_release_consists_of_packages_requirements_sbom_and_checksums(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## [1.2.0] - 2026-01-31\n")
    commit(repository)
    git(repository, "tag", "--annotate", "v1.2.0", "--message", "runqy 1.2.0")
    dist = repository / "dist"
    dist.mkdir()
    (dist / "of_an_older_release.whl").touch()

    ended = release(repository)

    assert ended.returncode == 0, ended
    names = ["requirements-worker.txt", "requirements.txt", "runqy-1.2.0-py3-none-any.whl", "runqy-1.2.0.cdx.json"]
    names += ["runqy-1.2.0.tar.gz", "runqy_sdk-0.3.0-py3-none-any.whl", "runqy_sdk-0.3.0.tar.gz"]
    files = [dist / name for name in names]
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    assert sorted(dist.iterdir()) == sorted([dist / "SHA256SUMS", *files])
    assert (dist / "SHA256SUMS").read_text() == sums
    for requirement in ("runqy[server]==1.2.0", "runqy-sdk[client]==0.3.0"):
        assert f"{requirement} \\\n    --hash=sha256:" in (dist / "requirements.txt").read_text()
