"""The example queues are deployed from a clone of this repository."""

import subprocess

import pytest

from queues.config import parse_queue_file
from runqy.errors import StackFailed
from runqy.local import examples
from runqy.local.examples import publish_examples
from runqy.local.queue_files import find_queue_files

NAMES = ["pipeline", "sentiment", "thumbnail"]


def git(*args: object) -> str:
    return subprocess.run(["git", *map(str, args)], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_queue_file_of_an_example_is_right_as_it_stands(name):
    path = examples.REPOSITORY / "examples" / name / "queue.yaml"

    file = parse_queue_file(path.read_bytes(), file=path.name)

    assert file.errors == ()
    assert [spec.name for spec in file.specs] == [name]


def test_clone_holds_the_commit_in_use(tmp_path):
    publish_examples(tmp_path)

    head = git("-C", examples.REPOSITORY, "rev-parse", "HEAD")
    assert git("--git-dir", tmp_path / "examples.git", "rev-parse", "main") == head


def test_clone_can_be_cloned_as_workers_do(tmp_path):
    publish_examples(tmp_path)
    url = (tmp_path / "examples.git").as_uri()

    git("clone", "--quiet", "--depth=1", "--branch=main", url, tmp_path / "checkout")

    assert (tmp_path / "checkout/examples/sentiment/main.py").is_file()


def test_clone_follows_the_repository(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    (repository / "examples").mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=trunk", repository)
    monkeypatch.setattr(examples, "REPOSITORY", repository)
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
    publish_examples(tmp_path)
    git(*commit, "--amend", "-m", "instead of one")

    publish_examples(tmp_path)

    assert git("--git-dir", tmp_path / "examples.git", "log", "--format=%s", "main") == "instead of one"


def test_queue_files_name_the_clone(tmp_path):
    files = find_queue_files(tmp_path)

    assert [spec.name for spec in files.queues] == NAMES
    assert {spec.deployment.git_url for spec in files.queues} == {(tmp_path / "examples.git").as_uri()}
    assert {spec.deployment.branch for spec in files.queues} == {"main"}


def test_file_of_an_example_that_is_gone_is_removed(tmp_path):
    folder = publish_examples(tmp_path)
    (folder / "gone.yaml").write_text("queues: {}\n")

    publish_examples(tmp_path)

    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.yaml" for name in NAMES]


def test_failure_of_git_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "REPOSITORY", tmp_path / "nowhere")

    with pytest.raises(StackFailed, match=r"the examples' repository cannot be made: .*nowhere"):
        publish_examples(tmp_path)
