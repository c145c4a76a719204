"""Deploying from real repositories into real virtual environments."""

import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from runqy.broker.workers.records import DeploymentStep, WorkerState
from runqy.core.formats.error_texts import find_error_line
from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitCredentials
from runqy.core.git.sources import parse_source
from runqy.errors import DeploymentFailed, DeploymentRefused, DeploymentStopped
from runqy.stack.deployments import describe_reason
from tests.support.workers import RECORD
from tests.workers.repositories import Repository, make_wheel
from workers.deploy import virtualenvs
from workers.deploy.deployment import Deployed, DeploymentSpec, deploy
from workers.deploy.read_checkout import requirement_texts, requirements_key

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deployments"


def deployment_spec(repository: Repository, folder: Path, **changes: object) -> DeploymentSpec:
    branch, code_path = str(changes.pop("branch", "main")), str(changes.pop("code_path", ""))
    source = parse_source(git_url=repository.url, branch=branch, code_path=code_path)
    return DeploymentSpec(queue="mail", source=source, folder=folder, **changes)  # type: ignore[arg-type]


def run_python(deployed: Deployed, code: str) -> str:
    done = subprocess.run(
        [deployed.environment / "bin" / "python", "-c", code], cwd=deployed.code_dir, capture_output=True, text=True
    )
    return done.stdout.strip() + done.stderr.strip()


def test_the_tip_of_the_branch_is_checked_out(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "old"})
    commit = repository.commit({"main.py": "new"})

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert (deployed.commit, deployed.problem) == (commit, "")
    assert (deployed.code_dir / "main.py").read_text() == "new"
    assert run_python(deployed, "import sys; print(sys.prefix)") == str(deployed.environment)


def test_a_commit_of_the_far_future_has_no_time(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "new"}, message="Mend it")
    repository.git("commit", "--amend", "--no-edit", GIT_COMMITTER_DATE="@999999999999 +0000")

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert (deployed.info.subject, deployed.info.committed_at_s) == ("Mend it", 0)


def test_the_checkout_is_shallow(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "old"})
    repository.commit({"main.py": "new"})

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    log = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=deployed.code_dir, capture_output=True, text=True)
    assert log.stdout.strip() == "1"


def test_a_tag_can_stand_for_the_branch(repository: Repository, folder: Path) -> None:
    commit = repository.commit({"main.py": "tagged"})
    repository.git("tag", "-a", "v1", "-m", "v1")
    repository.commit({"main.py": "newer"})

    deployed = deploy(deployment_spec(repository, folder, branch="v1"), CommandRunner())

    assert deployed.commit == commit
    assert (deployed.code_dir / "main.py").read_text() == "tagged"


def test_only_the_requested_folder_is_written(repository: Repository, folder: Path) -> None:
    repository.commit({"worker/main.py": "w", "web/index.html": "x", "worker/requirements.txt": ""})

    deployed = deploy(deployment_spec(repository, folder, code_path="worker"), CommandRunner())

    assert deployed.code_dir.name == "worker"
    assert (deployed.code_dir / "main.py").read_text() == "w"
    assert not (deployed.code_dir.parent / "web").exists()


def test_a_link_out_of_the_checkout_is_refused(repository: Repository, folder: Path) -> None:
    (repository.folder / "worker").symlink_to("/etc")
    repository.commit({"main.py": ""})

    with pytest.raises(DeploymentRefused, match="outside the repository"):
        deploy(deployment_spec(repository, folder, code_path="worker"), CommandRunner())


@pytest.mark.parametrize("name", ["requirements.txt", "worker"])
def test_a_loop_of_links_is_refused(repository: Repository, folder: Path, name: str) -> None:
    repository.commit({"main.py": ""})
    deploy(deployment_spec(repository, folder), CommandRunner())
    (repository.folder / name).symlink_to(name)
    repository.commit({})

    with pytest.raises(DeploymentRefused, match=f"'{name}' is a loop of symbolic links"):
        deploy(deployment_spec(repository, folder, code_path="" if "." in name else name), CommandRunner())


def test_a_damaged_record_of_the_last_deployment_does_not_prevent_the_next(
    repository: Repository, folder: Path
) -> None:
    commit = repository.commit({"main.py": ""})
    deploy(deployment_spec(repository, folder), CommandRunner())
    record = folder / "mail" / "kept.json"
    record.write_bytes(record.read_bytes().replace(b"main", b"mai\xff"))

    assert deploy(deployment_spec(repository, folder), CommandRunner()).commit == commit


def test_hooks_that_the_user_has_set_up_for_all_repositories_do_not_run(
    repository: Repository, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "home" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o700)
    (tmp_path / "home" / ".gitconfig").write_text(f"[core]\nhooksPath = {hook.parent}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    repository.commit({"main.py": ""})

    deploy(deployment_spec(repository, folder), CommandRunner())

    assert not (tmp_path / "ran").exists()


def test_a_second_deployment_of_the_same_commit_changes_nothing(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})
    first = deploy(deployment_spec(repository, folder), CommandRunner())
    before = os.stat(first.code_dir).st_ino, os.stat(first.environment).st_ino

    second = deploy(deployment_spec(repository, folder), CommandRunner())

    assert (os.stat(second.code_dir).st_ino, os.stat(second.environment).st_ino) == before


def test_requirements_are_installed_and_only_again_when_they_changed(repository: Repository, folder: Path) -> None:
    make_wheel(repository.folder / "wheels" / "greet-1.0-py3-none-any.whl", "greet", "word = 'hello'")
    repository.commit({"requirements.txt": "./wheels/greet-1.0-py3-none-any.whl\n"})
    first = deploy(deployment_spec(repository, folder), CommandRunner())

    assert run_python(first, "import greet; print(greet.word)") == "hello"

    repository.commit({"requirements.txt": "# nothing\n", "main.py": "1"})
    second = deploy(deployment_spec(repository, folder), CommandRunner())
    repository.commit({"main.py": "2"})
    third = deploy(deployment_spec(repository, folder), CommandRunner())

    assert first.environment != second.environment
    assert second.environment == third.environment
    assert "No module named 'greet'" in run_python(third, "import greet")


def keys_of_two_commits(requirements: Path) -> set[str]:
    texts = requirement_texts(requirements)
    return {requirements_key(texts, commit=commit, interpreter="") for commit in ("one", "two")}


@pytest.mark.parametrize(
    "line",
    [
        "./libs/common",
        "libs/common",
        "libs/common[gpu]  # ours",
        "# old \\\nlibs/common",
        "libs/common ; python_version > '3'",
        "common @ ./libs/common",
        "common @ libs/common",
        "common @ libs",
        "common@libs",
        "common @ file:libs/common",
        "common @ file:libs",
        "common[gpu] @ ${LIBS}",
        "common @ \\\n  libs",
        "common-1.0-py3-none-any.whl",
        "common-1.0.tar.gz",
        "common-1.0.tgz",
        "-e libs",
        "--editable=libs",
        "--find-links wheels",
        "--find-links=wheels",
        "-f wheels",
        "-fwheels",
        "-i https://pypi.example.com/simple -f wheels",
        "--index-url https://pypi.example.com/simple --find-links wheels",
        "-f file:wheels",
        "-r 'other requirements.txt'",
        "-r ${OTHER}",
    ],
)
def test_a_line_that_may_name_something_in_the_repository_is_installed_for_each_commit(
    tmp_path: Path, line: str
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"tabulate==0.9.0\n{line}\n")

    assert len(keys_of_two_commits(requirements)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "tabulate",
        "tabulate[widechars]==0.9.0 --hash=sha256:024ca478df22e9340661486f85298cff5f6dcdba14f3813e8830015b9ed1948f",
        "tabulate ; sys_platform == 'linux' # a/b",
        "# libs/common, -f wheels",
        "tabulate @ https://example.com/a/b",
        "tabulate @ git+https://user@example.com/a/b@v1#subdirectory=c",
        "--index-url https://pypi.example.com/simple --find-links https://pypi.example.com/wheels",
        "-f https://pypi.example.com/wheels --no-index",
        "--trusted-host pypi.example.com",
        "-r more/base.txt",
        "-c more/base.txt  # a/b",
        "-c https://example.com/constraints.txt",
    ],
)
def test_other_lines_are_not_installed_for_each_commit(tmp_path: Path, line: str) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{line}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("tabulate\n")

    assert len(keys_of_two_commits(requirements)) == 1


@pytest.mark.parametrize("option", ["-r ", "-c ", "--requirement=", "--constraint "])
def test_lines_of_files_that_are_included_count_too(tmp_path: Path, option: str) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{option}more/base.txt\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-r \\\nours.txt\n")
    (tmp_path / "more" / "ours.txt").write_text("libs/common\n")

    assert len(keys_of_two_commits(requirements)) == 2


def test_without_uv_venv_and_pip_do_the_same(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtualenvs, "_find_uv", lambda: None)
    make_wheel(repository.folder / "wheels" / "greet-1.0-py3-none-any.whl", "greet", "word = 'hello'")
    repository.commit({"requirements.txt": "./wheels/greet-1.0-py3-none-any.whl\n"})

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert run_python(deployed, "import greet; print(greet.word)") == "hello"


def test_an_unreachable_repository_leaves_the_last_good_checkout(repository: Repository, folder: Path) -> None:
    commit = repository.commit({"main.py": "good"})
    deploy(deployment_spec(repository, folder), CommandRunner()).release()
    repository.folder.rename(repository.folder.with_name("gone"))

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert deployed.commit == commit
    assert "git ls-remote failed" in deployed.problem
    assert (deployed.code_dir / "main.py").read_text() == "good"


def test_an_unknown_branch_is_named(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})

    with pytest.raises(DeploymentFailed, match="no branch or tag 'nope'"):
        deploy(deployment_spec(repository, folder, branch="nope"), CommandRunner())


def test_another_branch_never_falls_back_to_this_one(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})
    deploy(deployment_spec(repository, folder), CommandRunner())

    with pytest.raises(DeploymentFailed):
        deploy(deployment_spec(repository, folder, branch="nope"), CommandRunner())


def test_a_commit_that_a_user_names_must_be_in_a_branch_or_tag(repository: Repository, folder: Path) -> None:
    older = repository.commit({"main.py": "1"})
    repository.commit({"main.py": "2"})
    repository.git("checkout", "--quiet", "--detach")
    tagged = repository.commit({"main.py": "3"})
    repository.git("tag", "--annotate", "v1", "--message", "v1")
    foreign = repository.commit({"main.py": "4"})
    repository.git("update-ref", "refs/pull/1/head", foreign)
    repository.git("checkout", "--quiet", "main")

    def deployed(commit: str, *, requires_ref: bool = True) -> Deployed:
        return deploy(deployment_spec(repository, folder, commit=commit, requires_ref=requires_ref), CommandRunner())

    assert [deployed(commit).commit for commit in (older, tagged)] == [older, tagged]
    for commit in (foreign, "e" * 40):
        assert f"has no branch or tag that contains the commit {commit[:12]}" in deployed(commit).problem
    # What went live was in one then, and is deployed by new workers also after its branch was deleted.
    assert deployed(foreign, requires_ref=False).commit == foreign


def test_a_rewritten_branch_is_followed(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "one"})
    deploy(deployment_spec(repository, folder), CommandRunner())
    repository.git("commit", "--amend", "--quiet", "-m", "rewritten")

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert deployed.commit == repository.git("rev-parse", "HEAD")


def test_requirements_that_fail_leave_the_previous_pair(repository: Repository, folder: Path) -> None:
    good = repository.commit({"main.py": "good"})
    deploy(deployment_spec(repository, folder), CommandRunner())
    bad = repository.commit({"requirements.txt": "./wheels/missing-1.0-py3-none-any.whl\n"}, "Need more")

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert deployed.commit == good
    assert "uv pip failed" in deployed.problem
    failure = deployed.failure
    assert (failure.step, failure.commit, failure.info.subject) == (DeploymentStep.INSTALL, bad, "Need more")


def test_the_reason_of_failed_requirements_names_the_cause_and_not_the_hint(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    repository.commit({"requirements.txt": "no-such-package==1.0\n", "main.py": ""})

    with pytest.raises(DeploymentFailed) as failed:
        deploy(deployment_spec(repository, folder), CommandRunner())

    reason = failed.value.detail
    record = replace(RECORD, state=WorkerState.START_FAILED, reason=reason)
    assert "\nhint: " in reason
    for shown in (find_error_line(reason), describe_reason(record)):
        assert "no-such-package==1.0" in shown
        assert "hint" not in shown
    assert find_error_line(reason).startswith("uv pip failed: ")


def test_requirements_that_hang_are_given_up(repository: Repository, folder: Path) -> None:
    repository.commit({"requirements.txt": "./wheels/greet-1.0-py3-none-any.whl\n"})

    with pytest.raises(DeploymentFailed, match="uv pip did not finish"):
        deploy(deployment_spec(repository, folder, install_timeout_s=0.001), CommandRunner())


def test_a_folder_that_cannot_be_written_is_a_clear_error(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"main.py": ""})
    (tmp_path / "file").touch()

    with pytest.raises(DeploymentFailed, match="Not a directory"):
        deploy(deployment_spec(repository, tmp_path / "file" / "below"), CommandRunner())


def test_a_full_disk_is_named_and_the_next_try_succeeds(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "1"})
    draft = folder / "mail" / ".kept.json.new"
    draft.parent.mkdir(parents=True)
    draft.symlink_to("/dev/full")

    with pytest.raises(DeploymentFailed, match="the disk is full"):
        deploy(deployment_spec(repository, folder), CommandRunner())
    draft.unlink()

    assert deploy(deployment_spec(repository, folder), CommandRunner()).problem == ""


def test_a_disk_that_a_program_finds_full_is_named() -> None:
    with pytest.raises(DeploymentFailed, match=r"^cp failed: the disk is full: cp: .*/dev/full"):
        CommandRunner().run(["cp", "/proc/version", "/dev/full"], env={"LC_ALL": "C", "PATH": os.defpath}, timeout_s=30)


@pytest.mark.parametrize("files", [{"zeros": bytes(32 << 20)}, {f"zeros{n}": bytes(1 << 20) for n in range(32)}])
def test_a_checkout_that_grows_too_large_is_removed_and_names_the_limit(
    repository: Repository, folder: Path, files: dict[str, str | bytes]
) -> None:
    repository.commit({"main.py": ""})
    good = deploy(deployment_spec(repository, folder), CommandRunner())
    repository.commit(files)

    deployed = deploy(deployment_spec(repository, folder, max_deployment_bytes=80 << 20), CommandRunner())

    assert deployed.problem.startswith("git checkout writes more than 8 MiB (a tenth of RUNQY_MAX_DEPLOYMENT_BYTES)")
    assert deployed.commit == good.commit
    assert [path for path in (folder / "mail" / "checkouts").iterdir() if path.is_dir()] == [good.code_dir]


def test_an_environment_that_grows_too_large_is_removed_and_names_the_limit(
    repository: Repository, folder: Path
) -> None:
    for number in range(8):
        make_wheel(repository.folder / f"greet{number}-1.0-py3-none-any.whl", f"greet{number}", "#" * (1 << 20))
    repository.commit({"requirements.txt": "".join(f"./greet{number}-1.0-py3-none-any.whl\n" for number in range(8))})

    with pytest.raises(DeploymentFailed, match=r"^uv pip writes more than 4 MiB \(RUNQY_MAX_DEPLOYMENT_BYTES\)"):
        deploy(deployment_spec(repository, folder, max_deployment_bytes=4 << 20), CommandRunner())

    assert not (folder / "mail" / "cache").exists()
    assert list((folder / "mail" / "environments").iterdir()) == []
    assert not deploy(deployment_spec(repository, folder), CommandRunner()).problem


def test_an_installation_that_needs_too_much_memory_names_the_limit(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtualenvs, "INSTALL_MEMORY_BYTES", 128 << 20)
    project = f'[project]\nname = "ours"\nversion = "1"\ndescription = "{"a" * (160 << 20)}"\n'
    repository.commit({"requirements.txt": "./ours\n", "ours/pyproject.toml": project})

    with pytest.raises(DeploymentFailed, match=r"^uv pip needs more than 128 MiB of memory: "):
        deploy(deployment_spec(repository, folder), CommandRunner())


def test_a_checkout_of_deeply_nested_folders_is_removed(repository: Repository, folder: Path) -> None:
    name = "/".join(["a"] * 1_200)
    repository.git(
        "update-index", "--add", "--cacheinfo", f"100644,{repository.git('hash-object', '-w', os.devnull)},{name}"
    )
    repository.git("commit", "--quiet", "-m", "deep")
    deploy(deployment_spec(repository, folder), CommandRunner()).release()
    repository.git("rm", "--quiet", "-r", "--cached", "a")
    repository.git("commit", "--quiet", "--allow-empty", "-m", "flat")

    deployed = deploy(deployment_spec(repository, folder), CommandRunner())

    assert [path for path in (folder / "mail" / "checkouts").iterdir() if path.is_dir()] == [deployed.code_dir]


def test_a_deployment_can_be_stopped(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})
    commands = CommandRunner()
    commands.stop()

    with pytest.raises(DeploymentStopped):
        deploy(deployment_spec(repository, folder), commands)


def test_stopping_ends_the_program_that_runs_now() -> None:
    commands = CommandRunner()
    stopper = threading.Timer(0.1, commands.stop)
    stopper.start()

    with pytest.raises(DeploymentStopped):
        commands.run(["sleep", "60"], env={"PATH": os.environ["PATH"]}, timeout_s=60)
    stopper.join()


def test_unused_checkouts_are_removed(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": "one"})
    first = deploy(deployment_spec(repository, folder), CommandRunner())
    repository.commit({"main.py": "two"})
    second = deploy(deployment_spec(repository, folder), CommandRunner())
    assert first.code_dir.is_dir()

    first.release()
    repository.commit({"main.py": "three"})
    third = deploy(deployment_spec(repository, folder), CommandRunner())

    assert not first.code_dir.exists()
    assert second.code_dir.is_dir()
    assert third.code_dir.is_dir()


def test_two_workers_of_one_machine_deploy_the_same_thing_once(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})
    found: list[Deployed] = []
    threads = [
        threading.Thread(target=lambda: found.append(deploy(deployment_spec(repository, folder), CommandRunner())))
        for _ in range(3)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({(one.code_dir, one.environment) for one in found}) == 1
    assert len(found) == 3


def test_the_token_is_in_no_file_and_no_error(repository: Repository, folder: Path) -> None:
    repository.commit({"main.py": ""})
    token = GitCredentials(token="planted-token")

    deployed = deploy(deployment_spec(repository, folder, credentials=token), CommandRunner(secrets=token.secrets))
    source = parse_source(git_url="https://127.0.0.1:1/repo.git", branch="main")
    spec = DeploymentSpec(queue="other", source=source, folder=folder, credentials=token)
    with pytest.raises(DeploymentFailed) as failed:
        deploy(spec, CommandRunner(secrets=token.secrets))

    assert deployed.commit
    assert "planted-token" not in failed.value.detail
    assert "planted-token" not in repr(spec)
    for path in folder.rglob("*"):
        assert not (path.is_file() and b"planted-token" in path.read_bytes())
