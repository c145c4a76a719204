"""Releases of a queue with real workers: a bad commit is reverted, a good one goes live, a rollback needs no git."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import update_alerts
from queues.definitions import Deployment, ReleaseMode
from queues.models import Queue, QueueSource, Release, ReleaseState
from queues.operations import save_queue
from queues.releases import redeploy_queue, roll_back
from queues.rollouts import advance_rollouts, make_first_releases
from queues.webhook_secrets import QueueSecret, show_queue_secret
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import list_worker_records
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.waiting import eventually
from tests.support.web import WebProcess
from tests.workers.processes import SDK_FILES, WorkerProcess, add_task, wait_for_state
from tests.workers.repositories import Repository

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]

WORKING = Path(__file__).with_name("behaviours.py").read_text()


@pytest.fixture
def repository(repository: Repository) -> Repository:
    repository.commit({**SDK_FILES, "main.py": WORKING})
    return repository


@pytest.fixture
def start_worker(tmp_path: Path, deployments: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Return a function that starts a worker of `mail` at a server that reads only Redis."""
    web = WebProcess(tmp_path)
    workers: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        workers.append(WorkerProcess(web, tmp_path, RUNQY_DEPLOYMENT_DIR=str(tmp_path / "deployments")))  # type: ignore[arg-type]
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()
    web.kill()


def wait_for_release(broker: Broker, number: int, state: ReleaseState) -> Release:
    """Do what maintenance does, until a release of `mail` has a state."""

    def look() -> Release | None:
        make_first_releases(broker)
        advance_rollouts(broker)
        return Release.objects.filter(queue__name="mail", number=number, state=state).first()

    return eventually(look, what=lambda: list(Release.objects.values_list("number", "state", "reason", "workers")))


def wait_until_live(broker: Broker, number: int) -> None:
    """Do what maintenance does, and give the first worker tasks, until a release of `mail` is live."""
    eventually(
        lambda: (
            add_task(broker, {"do": "env"}),
            advance_rollouts(broker),
            Release.objects.filter(queue__name="mail", number=number, state=ReleaseState.LIVE).exists(),
        )[-1]
    )


def wait_for_commits(broker: Broker, *expected: str) -> None:
    """Wait until the workers run these commits, and all are ready."""
    eventually(
        lambda: (
            [(one.commit, one.state.value) for one in list_worker_records(broker)]
            == [(commit, "ready") for commit in expected]
        )
    )


def test_a_commit_that_does_not_start_touches_one_worker_and_a_fixed_one_goes_live(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess]
) -> None:
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py", rollout_bake_s=0)
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    good = repository.git("rev-parse", "HEAD")
    workers = [start_worker() for _ in range(3)]
    first = wait_for_release(single_broker, 1, ReleaseState.LIVE)
    wait_for_commits(single_broker, good, good, good)
    assert (first.commit, first.subject, first.source) == (good, "Change", "first")

    bad = repository.commit({"main.py": "import no_such_module\n"}, "Break it")
    redeploy_queue(name="mail")
    tasks = [add_task(single_broker, {"do": "env"}) for _ in range(20)]
    reverted = wait_for_release(single_broker, 2, ReleaseState.REVERTED)

    assert reverted.reason.endswith("ModuleNotFoundError: No module named 'no_such_module' (main.py, line 1)")
    assert reverted.output.startswith("the child process exited with status 1\nTraceback (most recent call last):")
    assert (reverted.commit, reverted.subject) == (bad, "Break it")
    assert reverted.author == first.author != ""
    assert reverted.committed_at is not None
    assert " could not start it: " in reverted.reason
    assert len(reverted.workers) == 1
    for task in tasks:
        env = json.loads(wait_for_state(single_broker, task, "completed", "archived").result or b"")
        assert env["RUNQY_COMMIT"] == good
    wait_for_commits(single_broker, good, good, good)
    assert sum(len(worker.events("deployed")) > 1 for worker in workers) == 1

    fixed = repository.commit({"main.py": WORKING, "other.txt": ""}, "Mend it")
    redeploy_queue(name="mail")
    wait_until_live(single_broker, 3)
    wait_for_commits(single_broker, fixed, fixed, fixed)

    repository.folder.rename(repository.folder.with_name("gone"))  # workers have the code and the environment
    roll_back(name="mail")
    live = wait_for_release(single_broker, 4, ReleaseState.LIVE)

    wait_for_commits(single_broker, good, good, good)
    assert (live.commit, live.subject, live.like) == (good, "Change", 1)


def test_an_alert_says_that_the_release_before_a_reverted_one_does_not_start(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.touch()
    load = f"from pathlib import Path\nif not Path({str(model)!r}).exists():\n    raise SystemExit('no model here')\n"
    good = repository.commit({"main.py": load + WORKING})
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py", rollout_bake_s=0)
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    start_worker()
    wait_for_release(single_broker, 1, ReleaseState.LIVE)
    bad = repository.commit({"main.py": WORKING})
    redeploy_queue(name="mail")
    eventually(
        lambda: (
            (advance_rollouts(single_broker), [one.commit for one in list_worker_records(single_broker)])[1] == [bad]
        )
    )

    model.unlink()
    add_task(single_broker, {"do": "die"})
    reverted = wait_for_release(single_broker, 2, ReleaseState.REVERTED)
    alert = eventually(
        lambda: (
            update_alerts(single_broker),
            Alert.objects.filter(kind=AlertKind.WORKER_START_FAILED, opened_at__isnull=False).first(),
        )[1]
    )

    assert reverted.reason == "A process that ran it died while it worked on a task"
    assert alert.message.endswith(" failed to start: the child process exited with status 1")
    waiting = add_task(single_broker, {"do": "env"})
    model.touch()
    env = json.loads(wait_for_state(single_broker, waiting, "completed", "archived").result or b"")
    assert env["RUNQY_COMMIT"] == good


def test_a_worker_that_starts_later_runs_the_live_release_and_not_the_branch(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess]
) -> None:
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py")
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    released = repository.git("rev-parse", "HEAD")
    start_worker()
    wait_for_release(single_broker, 1, ReleaseState.LIVE)
    repository.commit({"other.txt": ""})

    start_worker()

    wait_for_commits(single_broker, released, released)
    assert Queue.objects.get().releases.count() == 1


def test_a_commit_of_a_pull_request_is_not_released_and_one_of_a_branch_is(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess]
) -> None:
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py", rollout_bake_s=0)
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    start_worker()
    wait_for_release(single_broker, 1, ReleaseState.LIVE)
    older, newest = (repository.commit({"other.txt": text}) for text in "12")
    repository.git("checkout", "--quiet", "--detach")
    foreign = repository.commit({"main.py": "print(open('/proc/self/environ').read())"})
    repository.git("update-ref", "refs/pull/1/head", foreign)
    repository.git("checkout", "--quiet", "main")

    redeploy_queue(name="mail", commit=foreign)
    refused = wait_for_release(single_broker, 2, ReleaseState.REVERTED)
    redeploy_queue(name="mail", commit=older)
    wait_until_live(single_broker, 3)

    assert " could not fetch it: " in refused.reason
    assert f"has no branch or tag that contains the commit {foreign[:12]}" in refused.reason
    assert newest != older
    wait_for_commits(single_broker, older)


def test_requirements_that_cannot_be_installed_are_the_reason_of_a_reverted_release(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess]
) -> None:
    deployment = Deployment(git_url=repository.url, startup_cmd="python main.py", rollout_bake_s=0)
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    start_worker()
    first = wait_for_release(single_broker, 1, ReleaseState.LIVE)
    bad = repository.commit({"requirements.txt": "./wheels/missing-1.0-py3-none-any.whl\n"}, "Need more")

    redeploy_queue(name="mail")
    reverted = wait_for_release(single_broker, 2, ReleaseState.REVERTED)

    assert " could not install its requirements: uv pip failed: " in reverted.reason
    assert "missing-1.0-py3-none-any.whl" in reverted.reason
    assert (reverted.commit, reverted.subject, reverted.author) == (bad, "Need more", first.author)
    assert reverted.committed_at is not None
    wait_for_commits(single_broker, first.commit)


def test_a_push_releases_the_newest_commit_that_a_worker_finds_and_sent_again_nothing(
    single_broker: Broker, repository: Repository, start_worker: Callable[[], WorkerProcess]
) -> None:
    deployment = Deployment(
        git_url=repository.url, startup_cmd="python main.py", rollout_bake_s=0, release=ReleaseMode.PUSH
    )
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    headers = {
        "X-Gitlab-Event": "Push Hook",
        "X-Gitlab-Token": show_queue_secret("mail", which=QueueSecret.GIT_HOOK),
    }
    start_worker()
    wait_for_release(single_broker, 1, ReleaseState.LIVE)
    repository.commit({"other.txt": "1"})
    event = {"ref": "refs/heads/main", "after": "f" * 40, "project": {"git_http_url": repository.url}}
    newest = repository.commit({"other.txt": "2"})

    def push() -> int | None:
        # As in production, this server may not read a repository of its own disk.
        found: int | None = json.loads(ApiClient(None).post("/hooks/git/mail", event, **headers).content)["release"]
        return found

    assert push() == 2
    wait_until_live(single_broker, 2)
    wait_for_commits(single_broker, newest)
    assert push() is None
    assert Release.objects.get(number=2).commit == newest
