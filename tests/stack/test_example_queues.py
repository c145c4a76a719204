"""The example queues are deployed from a repository that the stack makes of their files."""

import os
import shutil
import signal
import subprocess

import pytest

from queues.queue_files import parse_queue_file
from runqy.errors import StackFailed
from runqy.stack import queue_files
from runqy.stack.queue_files import find_queue_files, publish_examples
from runqy.stack.stop_signals import Interrupted

pytestmark = pytest.mark.slow

NAMES = ["pipeline", "sentiment", "thumbnail"]


def git(*args: object) -> str:
    return subprocess.run(["git", *map(str, args)], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_queue_file_of_each_example_is_valid(name):
    path = queue_files.EXAMPLES / name / "queue.yaml"

    file = parse_queue_file(path.read_bytes(), file=path.name)

    assert file.errors == ()
    assert [spec.name for spec in file.specs] == [name]


def test_repository_can_be_cloned_as_workers_do(tmp_path, stop):
    publish_examples(tmp_path, stop)
    url = (tmp_path / "examples.git").as_uri()

    git("clone", "--quiet", "--depth=1", "--branch=main", url, tmp_path / "checkout")

    files = {path.name for path in (tmp_path / "checkout/sentiment").iterdir()}
    assert files == {"README.md", "main.py", "queue.yaml", "requirements.txt", "reviews.tsv"}


def test_repository_follows_the_files(tmp_path, monkeypatch, stop):
    examples = tmp_path / "examples"
    shutil.copytree(queue_files.EXAMPLES, examples)
    (examples / "sentiment/__pycache__").mkdir()
    (examples / "sentiment/__pycache__/main.cpython-311.pyc").write_bytes(b"compiled by an installer")
    monkeypatch.setattr(queue_files, "EXAMPLES", examples)
    repository = ("--git-dir", tmp_path / "examples.git")

    commits, files = [], []
    for change in (lambda: None, lambda: None, (examples / "sentiment/reviews.tsv").unlink):
        change()
        publish_examples(tmp_path, stop)
        commits.append(git(*repository, "rev-parse", "main"))
        files.append(git(*repository, "ls-tree", "-r", "--name-only", "main").splitlines())

    assert commits[0] == commits[1] != commits[2]
    assert "sentiment/reviews.tsv" in files[0]
    assert files[2] == [name for name in files[0] if name != "sentiment/reviews.tsv"]
    assert not any("__pycache__" in name for name in files[0])


def test_queue_files_name_the_repository(tmp_path, stop):
    files = find_queue_files(tmp_path, stop)

    assert [spec.name for spec in files.queues] == NAMES
    assert {spec.deployment.git_url for spec in files.queues} == {(tmp_path / "examples.git").as_uri()}
    assert {spec.deployment.branch for spec in files.queues} == {"main"}


def test_queue_file_of_a_deleted_example_is_removed(tmp_path, stop):
    folder = publish_examples(tmp_path, stop)
    (folder / "gone.yaml").write_text("queues: {}\n")

    publish_examples(tmp_path, stop)

    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.yaml" for name in NAMES]


def test_failure_of_git_is_a_one_line_error(tmp_path, stop):
    (tmp_path / "examples.git").write_text("not a folder")

    with pytest.raises(StackFailed, match=r"the repository of the examples cannot be created: .*examples\.git"):
        publish_examples(tmp_path, stop)


def test_stop_signal_during_the_check_is_not_an_error_of_the_files(tmp_path, stop, monkeypatch):
    (tmp_path / "mail.yaml").write_text("queues: {}\n")
    monkeypatch.setenv("QUEUE_WORKERS_DIR", str(tmp_path))
    monkeypatch.setattr(queue_files.settings, "QUEUE_WORKERS_DIR", tmp_path)
    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        find_queue_files(tmp_path, stop)


def test_stop_signal_ends_the_making_of_the_repository(tmp_path, stop):
    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        find_queue_files(tmp_path, stop)
