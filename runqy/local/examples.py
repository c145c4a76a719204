"""Gives the example queues a git repository of their own to be deployed from: the commit of this repository in use."""

import os
import subprocess
from pathlib import Path

from runqy.errors import StackFailed

REPOSITORY = Path(__file__).parents[2]
PLACEHOLDER_URL = "https://example.com/runqy.git"
BRANCH = "main"


def has_examples() -> bool:
    """Tell whether this is a git checkout with the examples, and not an installed package."""
    return (REPOSITORY / ".git").exists() and (REPOSITORY / "examples").is_dir()


def publish_examples(home: Path) -> Path:
    """Bring the clone and the queue files that name it up to date. Returns the folder of queue files."""
    clone = home / "examples.git"
    if not (clone / "HEAD").exists():
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(clone))
        _git("--git-dir", str(clone), "config", "uploadpack.allowFilter", "true")
    _git(
        *("--git-dir", str(clone), "fetch", "--quiet", "--force", "--depth=1", "--update-shallow"),
        *(REPOSITORY.as_uri(), f"+HEAD:refs/heads/{BRANCH}"),
    )
    return _write_queue_files(home / "queues", clone.as_uri())


def _write_queue_files(folder: Path, url: str) -> Path:
    """Write each example's queue file with the URL of the clone, and remove those of examples that are gone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    sources = sorted((REPOSITORY / "examples").glob("*/queue.yaml"))
    written = {folder / f"{source.parent.name}.yaml": source.read_text("utf-8") for source in sources}
    for path in set(folder.glob("*.yaml")) - written.keys():
        path.unlink()
    for path, text in written.items():
        path.write_text(text.replace(PLACEHOLDER_URL, url), "utf-8")
    return folder


def _git(*args: str) -> None:
    """Run git; its own words become the error."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's repository
    done = subprocess.run(["git", *args], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackFailed(f"the examples' repository cannot be made: {done.stderr.strip() or f'git {args[0]} failed'}")
