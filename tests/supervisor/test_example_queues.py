"""The example queues are deployed from a clone of this repository."""

import os
import signal
import subprocess

import pytest

from queues.queue_files import parse_queue_file
from runqy.errors import StackFailed
from runqy.supervisor import queue_files
from runqy.supervisor.queue_files import find_queue_files, publish_examples
from runqy.supervisor.stop_signals import Interrupted

pytestmark = pytest.mark.slow

NAMES = ["pipeline", "sentiment", "thumbnail"]


def git(*args: object) -> str:
    return subprocess.run(["git", *map(str, args)], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_queue_file_of_each_example_is_valid(name):
    path = queue_files.REPOSITORY / "examples" / name / "queue.yaml"

    file = parse_queue_file(path.read_bytes(), file=path.name)

    assert file.errors == ()
    assert [spec.name for spec in file.specs] == [name]


def test_clone_contains_the_current_commit(tmp_path, stop):
    publish_examples(tmp_path, stop)

    head = git("-C", queue_files.REPOSITORY, "rev-parse", "HEAD")
    assert git("--git-dir", tmp_path / "examples.git", "rev-parse", "main") == head


def test_clone_can_be_cloned_as_workers_do(tmp_path, stop):
    publish_examples(tmp_path, stop)
    url = (tmp_path / "examples.git").as_uri()

    git("clone", "--quiet", "--depth=1", "--branch=main", url, tmp_path / "checkout")

    assert (tmp_path / "checkout/examples/sentiment/main.py").is_file()


def test_clone_follows_the_repository(tmp_path, monkeypatch, stop):
    repository = tmp_path / "repository"
    (repository / "examples").mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=trunk", repository)
    monkeypatch.setattr(queue_files, "REPOSITORY", repository)
    commit = (
        "-C",
        repository,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "commit",
        "--quiet",
        "--allow-empty",
    )
    git(*commit, "-m", "one")
    publish_examples(tmp_path, stop)
    git(*commit, "--amend", "-m", "instead of one")

    publish_examples(tmp_path, stop)

    assert git("--git-dir", tmp_path / "examples.git", "log", "--format=%s", "main") == "instead of one"


def test_queue_files_name_the_clone(tmp_path, stop):
    files = find_queue_files(tmp_path, stop)

    assert [spec.name for spec in files.queues] == NAMES
    assert {spec.deployment.git_url for spec in files.queues} == {(tmp_path / "examples.git").as_uri()}
    assert {spec.deployment.branch for spec in files.queues} == {"main"}


def test_queue_file_of_a_deleted_example_is_removed(tmp_path, stop):
    folder = publish_examples(tmp_path, stop)
    (folder / "gone.yaml").write_text("queues: {}\n")

    publish_examples(tmp_path, stop)

    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.yaml" for name in NAMES]


def test_failure_of_git_is_a_one_line_error(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(queue_files, "REPOSITORY", tmp_path / "nowhere")

    with pytest.raises(StackFailed, match=r"the repository of the examples cannot be created: .*nowhere"):
        publish_examples(tmp_path, stop)


def test_stop_signal_during_the_check_is_not_an_error_of_the_files(tmp_path, stop, monkeypatch):
    (tmp_path / "mail.yaml").write_text("queues: {}\n")
    monkeypatch.setenv("QUEUE_WORKERS_DIR", str(tmp_path))
    monkeypatch.setattr(queue_files.settings, "QUEUE_WORKERS_DIR", tmp_path)
    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        find_queue_files(tmp_path, stop)


def test_stop_signal_ends_the_making_of_the_clone(tmp_path, stop):
    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        find_queue_files(tmp_path, stop)
