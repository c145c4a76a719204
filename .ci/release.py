"""Build a release of HEAD: wheels, sdists, requirements with hashes, SBOM and checksums. Run by `make release`."""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
REQUIREMENTS = {"requirements.txt": "runqy[server]", "requirements-worker.txt": "runqy"}
"""Published files of pinned packages, and what each one installs."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--snapshot", action="store_true", help="build the commit of HEAD even if it is not a release")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder to replace (default: dist)")
    options = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    unmet = list(find_unmet_conditions(ROOT, version))
    if unmet:
        title = f"This is a snapshot. The release {version} would need:"
        print(title if options.snapshot else f"HEAD is not the release {version}:", *unmet, sep="\n- ", file=sys.stderr)
        if not options.snapshot:
            sys.exit("To build it all the same, to try it: make release ARGS=--snapshot")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "dist")
        build_packages(Path(folder, "source"), built)
        write_requirements(built, version)
        write_sbom(built, Path(folder, "environment"), version)
        run(BIN / "twine", "check", "--strict", *built.glob("*.whl"), *built.glob("*.tar.gz"))
        write_checksums(built)
        shutil.rmtree(options.out, ignore_errors=True)  # no file of another release stays beside these
        shutil.copytree(built, options.out)
    print(f"{'A snapshot' if unmet else 'The release'} of runqy {version} is in {options.out}:")
    print((options.out / "SHA256SUMS").read_text(), end="")


def find_unmet_conditions(root: Path, version: str) -> Iterator[str]:
    """Yield what keeps HEAD from being the release of a version, and what to do."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        yield f"pyproject.toml: the version {version} is not of a release. Use X.Y.Z, or X.Y.ZrcN before it."
    dependencies = tomllib.loads((root / "pyproject.toml").read_text())["project"].get("dependencies", ())
    sdk_version = read_sdk_version(root)
    for pin in dependencies:
        if pin.startswith("runqy-sdk") and not pin.endswith(f"=={sdk_version}"):
            yield f"pyproject.toml depends on {pin}, and sdk/pyproject.toml has version {sdk_version}. Name that."
    if changes := git(root, "status", "--porcelain"):
        yield f"{len(changes.splitlines())} files have changes that are not committed. Commit or stash them."
    heading = re.search(r"^## \[(.+?)\] - (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    if heading is None or heading[1] != version or not is_date(heading[2]):
        yield (
            f"CHANGELOG.md: the newest section is {heading[0] if heading else 'missing'!r}. "
            f"Name the version and the day of the release: '## [{version}] - {date.today()}'."
        )
    tag, head = f"v{version}", git(root, "rev-parse", "HEAD")
    tagged = git(root, "rev-parse", "--quiet", "--verify", f"refs/tags/{tag}^{{commit}}")
    if not tagged:
        yield f"There is no tag {tag}. When all else is done: git tag --sign {tag} -m 'runqy {version}'"
    elif tagged != head:
        yield f"The tag {tag} is on {tagged[:12]}, HEAD on {head[:12]}. Check out {tag}, or choose a new version."
    elif git(root, "cat-file", "-t", tag) != "tag":
        yield f"The tag {tag} has no author and no date. Replace it: git tag --force --sign {tag} -m 'runqy {version}'"


def is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text) <= date.today()
    except ValueError:
        return False


def build_packages(source: Path, built: Path) -> None:
    """Build the commit of HEAD, and nothing that lies around it."""
    source.mkdir()
    archive = source.with_suffix(".tar")
    run("git", "-C", ROOT, "archive", "--output", archive, "HEAD")
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    # With the date of the commit, everybody builds the same bytes from it.
    env = os.environ | {"SOURCE_DATE_EPOCH": git(ROOT, "log", "-1", "--format=%ct")}
    for folder in (source, source / "sdk"):
        run(sys.executable, "-m", "hatchling", "build", "--directory", built, cwd=folder, env=env)
    for name in REQUIREMENTS:
        shutil.copy(source / name, built)


def read_sdk_version(root: Path) -> str:
    version: str = tomllib.loads((root / "sdk/pyproject.toml").read_text())["project"]["version"]
    return version


def write_requirements(built: Path, version: str) -> None:
    """Add runqy and its SDK to the pinned packages, so that one command installs it and checks every hash."""
    sdk_version = read_sdk_version(ROOT)
    for name, package in REQUIREMENTS.items():
        with (built / name).open("a") as file:
            for requirement, stem in (
                (f"{package}=={version}", "runqy"),
                (f"runqy-sdk[client]=={sdk_version}", "runqy_sdk"),
            ):
                packages = sorted([*built.glob(f"{stem}-*.whl"), *built.glob(f"{stem}-*.tar.gz")])
                hashes = " \\\n".join(f"    --hash=sha256:{digest(each)}" for each in packages)
                file.write(f"{requirement} \\\n{hashes}\n")


def write_sbom(built: Path, environment: Path, version: str) -> None:
    """List what an installation of the server consists of, in the format of CycloneDX."""
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, environment)
    run(
        *(BIN / "uv", "pip", "install", "--quiet", "--require-hashes", "--find-links", built),
        *("--requirement", built / "requirements.txt", "--python", environment / "bin/python"),
    )
    run(
        *(BIN / "cyclonedx-py", "environment", environment / "bin/python", "--pyproject", ROOT / "pyproject.toml"),
        *("--output-reproducible", "--output-file", built / f"runqy-{version}.cdx.json"),
    )


def write_checksums(built: Path) -> None:
    lines = [f"{digest(file)}  {file.name}\n" for file in sorted(built.iterdir())]
    (built / "SHA256SUMS").write_text("".join(lines))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], stdout=subprocess.PIPE, text=True).stdout.strip()


def run(*command: object, **options: object) -> None:
    """Run a program. Exit if it fails: it has said why."""
    words: Sequence[str] = [str(word) for word in command]
    if subprocess.run(words, **options).returncode:  # type: ignore[call-overload]
        sys.exit(f"{words[0]} failed.")


if __name__ == "__main__":
    main()
