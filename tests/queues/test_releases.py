"""Releases: what makes one, what it is, what is published of it, and the steps of a rollout."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from structlog.testing import capture_logs

from queues import releases, rollouts
from queues.definitions import Deployment
from queues.duties import RolloutRunner
from queues.models import Queue, QueueSource, Release, ReleaseSource, ReleaseState
from queues.operations import save_queue
from queues.queries import find_worker_release, get_fresh_catalog
from queues.releases import RELEASES_KEPT, publish_releases, redeploy_queue, roll_back
from queues.rollouts import (
    GO_ON,
    OUTPUT_MAX_CHARS,
    Live,
    Reverted,
    Step,
    Wait,
    advance_rollouts,
    decide,
    make_first_releases,
    take_step,
)
from runqy.audit.admin.presenters import summarize
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import DeploymentStep, WorkerRecord, WorkerState
from runqy.errors import ReleaseMissing, RequestInvalid
from tests.queues.samples import spec

OLD, NEW = "a" * 40, "b" * 40
NOW = timezone.now()
BUILD = 'uv pip failed: Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nValueError: no'
DEPLOYMENT = Deployment(git_url="https://git.example.com/mail.git", startup_cmd="python main.py")


def worker(name: str, release: int = 1, **changes: Any) -> WorkerRecord:
    record = WorkerRecord(
        worker_id=name,
        host="h",
        pid=int(name[1:]),
        server_id=name,
        queue="mail",
        redis_queues={"mail": 1},
        state=WorkerState.READY,
        commit=OLD if release == 1 else NEW,
        release=release,
        started_at_s=1,
    )
    return replace(record, **changes)


def release(**changes: Any) -> Release:
    columns = {"number": 2, "commit": NEW, "source": ReleaseSource.MANUAL, "state": ReleaseState.ROLLING_OUT}
    return Release(**columns | changes)


def step(row: Release, *workers: WorkerRecord, **queue: Any) -> Step:
    return decide(row, Queue(name="mail", **queue), workers, now=NOW)


W1, W2, W3 = worker("w1"), worker("w2"), worker("w3")
N1, N2, N3 = (worker(name, 2) for name in ("w1", "w2", "w3"))
READY_AT = NOW - timedelta(seconds=61)


def test_a_rollout_begins_with_the_least_busy_ready_worker() -> None:
    failed = worker("w0", state=WorkerState.START_FAILED)
    busy = replace(W1, running=("t1",), release_runs=10, release_failures=3)

    found = step(release(), failed, busy, W2)

    assert found == Wait({"workers": ["w2"], "runs_before": 10, "failures_before": 3})
    assert step(release()) == GO_ON
    assert step(release(), failed) == Wait({"workers": ["w0"], "runs_before": 0, "failures_before": 0})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({"release_runs": 9, "release_failures": 9}, Wait({"is_baked": True}), id="few-failures"),
        pytest.param({"release_runs": 10, "release_failures": 5}, Wait({"is_baked": True}), id="half-of-the-runs"),
        pytest.param({"release_runs": 10, "release_failures": 6}, Reverted("6 of its first 10 runs failed"), id="most"),
        pytest.param({"release_runs": 0}, GO_ON, id="no-run-yet"),
        pytest.param(
            {"release_runs": 1, "release_failures": 1, "release_deaths": 1},
            Reverted("A process that ran it died while it worked on a task"),
            id="death",
        ),
        pytest.param(
            {"release_runs": 30, "release_failures": 1, "release_deaths": 1}, Wait({"is_baked": True}), id="ok"
        ),
        pytest.param({"state": WorkerState.STARTING, "release": 1}, GO_ON, id="loading"),
        pytest.param(
            {"state": WorkerState.STARTING, "release_runs": 1, "release_failures": 1, "release_deaths": 1},
            Reverted("A process that ran it died while it worked on a task"),
            id="dying-again-and-again",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": "no such folder"},
            Reverted("w1 could not start it: no such folder"),
            id="failed-start",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": "no such branch", "failed_step": DeploymentStep.FETCH},
            Reverted("w1 could not fetch it: no such branch"),
            id="failed-fetch",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": BUILD, "failed_step": DeploymentStep.INSTALL},
            Reverted("w1 could not install its requirements: ValueError: no", BUILD),
            id="failed-installation",
        ),
    ],
)
def test_the_first_worker_decides_whether_the_others_follow(found: dict[str, Any], expected: Step) -> None:
    row = release(workers=["w1"], ready_at=READY_AT, runs_before=100, failures_before=10)

    assert step(row, replace(N1, **found), W2) == expected


def test_failures_that_the_live_release_had_too_are_not_held_against_a_new_one() -> None:
    row = release(workers=["w1"], ready_at=READY_AT, runs_before=100, failures_before=20)

    assert step(row, replace(N1, release_runs=10, release_failures=10), W2) == Wait({"is_baked": True})


def test_baking_begins_when_the_first_worker_is_ready_and_waits_ten_minutes_for_a_run() -> None:
    waiting = release(workers=["w1"])

    assert step(waiting, replace(N1, release_runs=5)) == Wait({"ready_at": NOW})
    waiting.ready_at = NOW - timedelta(seconds=59)
    assert step(waiting, replace(N1, release_runs=5)) == GO_ON
    waiting.ready_at = NOW - timedelta(minutes=10)
    assert step(waiting, N1) == Wait({"is_baked": True})


def test_the_others_follow_in_steps_of_the_share_and_at_least_one() -> None:
    workers = [N1, *(worker(f"w{number}") for number in range(2, 9))]
    row = release(workers=["w1"], is_baked=True)

    assert step(row, *workers) == Wait({"workers": ["w1", "w2", "w3"]})
    assert step(row, N1, W2, W3, rollout_max_unavailable=1) == Wait({"workers": ["w1", "w2"]})
    row.workers = ["w1", "w2"]
    assert step(row, N1, W2, W3) == GO_ON  # the second one has not changed yet
    row.workers = ["w1", "w2", "w3"]
    assert step(row, N1, N2, N3) == Live()


def test_a_lost_first_worker_is_replaced_once() -> None:
    row = release(workers=["w1"])
    lost = Wait({"workers": ["w2"], "has_lost_worker": True, "ready_at": None})

    assert step(row, W2, W3) == lost
    row.has_lost_worker = True
    assert isinstance(step(row, W2, W3), Reverted)


def test_workers_that_are_gone_or_end_do_not_stop_a_rollout_that_has_proved_itself() -> None:
    row = release(workers=["w1", "w2"], is_baked=True)
    ending = replace(W2, state=WorkerState.DRAINING)

    assert step(row, W3) == Wait({"workers": ["w3"]})  # all were restarted, with new ids
    assert step(row, N1, ending, W3) == Wait({"workers": ["w1", "w3"]})
    assert step(row, N1, ending) == Live()
    assert step(row) == step(row, ending) == GO_ON
    assert step(row, ending, is_enabled=False) == GO_ON  # all workers of a disabled queue drain


def test_a_rollback_needs_no_proof() -> None:
    row = release(source=ReleaseSource.ROLLBACK, is_baked=True)

    begun = step(row, *(worker(f"w{number}") for number in range(1, 9)))

    assert isinstance(begun, Wait)
    assert begun.changes["workers"] == ["w1", "w2"]
    row.workers = ["w1", "w2"]
    assert step(row, N1, N2, W3) == Wait({"workers": ["w1", "w2", "w3"]})
    assert step(row, W3) == Wait({"workers": ["w3"]})  # both were lost


def test_a_rollback_goes_on_with_the_workers_that_can_run_it() -> None:
    row = release(source=ReleaseSource.ROLLBACK, is_baked=True, workers=["w1"])
    unable = replace(W1, failed_release=2, reason="no commit")  # it runs its older code
    reverted = Reverted("w1 could not start it: no commit")

    assert step(row, unable, W2, W3) == Wait({"workers": ["w1", "w2"]})
    row.workers = ["w1", "w2", "w3"]
    assert step(row, unable, N2, W3) == GO_ON
    assert step(row, unable, N2, N3) == Live()
    assert step(row, unable) == step(row, unable, worker("w2", state=WorkerState.START_FAILED)) == reverted
    assert step(release(workers=["w1"], is_baked=True), unable, W2) == reverted


def test_workers_that_are_not_ready_follow_once_a_release_is_live() -> None:
    row = release(workers=["w1"], is_baked=True)
    broken = worker("w2", state=WorkerState.START_FAILED)

    assert step(row, N1, broken, W3) == Wait({"workers": ["w1", "w3"]})
    row.workers = ["w1", "w3"]
    assert step(row, N1, broken, N3) == Live()


def test_the_commit_of_a_release_is_the_newest_that_its_first_worker_finds() -> None:
    row = release(commit="", workers=["w1"])
    info = {"commit_subject": "Mend it", "commit_author": "Ada", "committed_at_s": 1}

    found = step(row, replace(N1, **info), W2)

    assert isinstance(found, Wait)
    assert (found.changes["commit"], found.changes["subject"], found.changes["author"]) == (NEW, "Mend it", "Ada")
    assert step(row, replace(N1, commit="local"), W2) == Wait({"ready_at": NOW})  # a folder of that machine


@pytest.fixture
def mail(configuration: None, single_broker: Broker) -> Queue:
    """Return a queue whose live release is the commit OLD."""
    row = save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)
    revision = get_fresh_catalog(0).queue_revision("mail")
    beat(single_broker, worker("w1", 0, commit=OLD, revision=revision))
    make_first_releases(single_broker)
    return row


def beat(broker: Broker, *records: WorkerRecord) -> None:
    for record in records:
        broker.run(write_heartbeat(record, now_ns=broker.now_ns()))


def advance(broker: Broker, times: int = 1) -> None:
    for _ in range(times):
        advance_rollouts(broker)


def finish(broker: Broker, number: int, commit: str) -> None:
    """Let the worker `w1`, which has done a task, run a release until it is live."""
    Queue.objects.update(rollout_bake_s=0)
    advance(broker)
    beat(broker, worker("w1", number, commit=commit, release_runs=1))
    advance(broker, 5)


def states() -> list[tuple[int, str, str]]:
    return list(Release.objects.order_by("number").values_list("number", "state", "commit"))


def test_the_commit_of_the_first_ready_worker_is_the_first_release(mail: Queue) -> None:
    assert states() == [(1, "live", OLD)]
    found = find_worker_release("mail", "any")
    assert found is not None
    assert (found.number, found.commit, found.git_url) == (1, OLD, DEPLOYMENT.git_url)


@pytest.mark.parametrize("changes", [{"revision": "1"}, {"reason": "runs older code"}, {"commit": "local"}])
def test_a_worker_with_other_code_makes_no_release(
    configuration: None, single_broker: Broker, changes: dict[str, Any]
) -> None:
    save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)
    revision = get_fresh_catalog(0).queue_revision("mail")
    beat(single_broker, replace(worker("w1", 0, commit=OLD, revision=revision), **changes))

    make_first_releases(single_broker)

    assert states() == []


def test_only_the_workers_of_a_rollout_are_given_the_release(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1, W2)
    redeploy_queue(name="mail", commit=NEW)
    advance(single_broker)

    numbers = [(found := find_worker_release("mail", name)) and found.number for name in ("w1", "w2", "w3")]

    assert numbers == [2, 1, 1]


def test_a_rollout_is_looked_at_more_often(mail: Queue, single_broker: Broker) -> None:
    duty = RolloutRunner()
    duty.run(single_broker)
    idle_s = duty.interval_s

    redeploy_queue(name="mail", commit=NEW)
    duty.run(single_broker)
    assert duty.interval_s < idle_s

    Release.objects.filter(number=2).delete()
    duty.run(single_broker)
    assert duty.interval_s == idle_s


def test_only_a_commit_that_a_user_named_must_be_in_a_branch_until_it_is_live(
    mail: Queue, single_broker: Broker
) -> None:
    beat(single_broker, W1)

    def requires_ref() -> bool:
        advance(single_broker)
        found = find_worker_release("mail", "w1")
        return bool(found and found.requires_ref)

    redeploy_queue(name="mail", commit=NEW)
    named = requires_ref()
    finish(single_broker, 2, NEW)
    live = requires_ref()
    redeploy_queue(name="mail")
    newest = requires_ref()
    roll_back(name="mail")

    assert (named, live, newest, requires_ref()) == (True, False, False, False)


def test_a_newer_release_supersedes_the_one_that_is_rolling_out(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1, W2)
    redeploy_queue(name="mail", commit=NEW)
    advance(single_broker)

    redeploy_queue(name="mail", commit="v2")

    assert [state for _, state, _ in states()] == ["live", "superseded", "rolling_out"]
    assert Release.objects.get(number=3).branch == "v2"


def test_a_worker_that_reports_nonsense_stops_no_rollout_of_another_queue(mail: Queue, single_broker: Broker) -> None:
    save_queue(spec=spec("chat", deployment=DEPLOYMENT), source=QueueSource.API)
    forged = replace(worker("w9"), queue="chat")
    beat(single_broker, W1, forged)
    redeploy_queue(name="chat", commit=NEW)
    redeploy_queue(name="mail", commit=NEW)
    Release.objects.filter(queue__name="chat").update(is_whole=False)

    beat(single_broker, replace(forged, release_runs=1 << 64))
    advance(single_broker)
    beat(single_broker, replace(forged, failed_release=1, reason="no\0such file"))
    advance(single_broker, 2)

    assert Release.objects.get(queue__name="mail", number=2).workers == ["w1"]
    assert "no\ufffdsuch file" in Release.objects.get(queue__name="chat").reason


def recorded(action: str) -> dict[str, Any]:
    """Return the changes of the newest record of an action, each as its old and new value."""
    changes = json.loads(AuditRecord.objects.filter(action=action).latest("number").changes)
    return {name: (change["old"], change["new"]) for name, change in changes.items()}


def test_the_audit_has_both_releases_with_the_subjects_of_their_commits(mail: Queue, single_broker: Broker) -> None:
    Release.objects.update(subject="Greet", author="Ada")
    beat(single_broker, W1)
    redeploy_queue(name="mail", commit=NEW)
    advance(single_broker)
    beat(single_broker, replace(N1, commit_subject="Greet in the morning", commit_author="Grace", committed_at_s=1))
    Queue.objects.update(rollout_bake_s=0)
    advance(single_broker, 2)
    finish(single_broker, 2, NEW)

    assert recorded("queue.redeployed") == {"release": (1, 2), "commit": (OLD, NEW)}
    assert recorded("queue.released") == {
        "release": (1, 2),
        "commit": (OLD, NEW),
        "subject": ("Greet", "Greet in the morning"),
        "author": ("Ada", "Grace"),
        "committed_at": (None, "1970-01-01 00:00:01+00:00"),
    }
    roll_back(name="mail")
    back = recorded("queue.rolled_back")
    assert (back["release"], back["like"], back["subject"]) == ((2, 3), (None, 1), ("Greet in the morning", "Greet"))
    line = summarize(AuditRecord.objects.filter(action="queue.released").latest("number"))
    assert line.startswith("release: 1 → 2; subject: Greet → Greet in the morning; author: Ada → Grace; ")
    assert f"; commit: {OLD[:12]} → {NEW[:12]}; " in line


def test_a_reverted_release_is_recorded_as_the_way_back(mail: Queue, single_broker: Broker) -> None:
    Release.objects.update(subject="Greet")
    beat(single_broker, W1, W2)
    redeploy_queue(name="mail")
    advance(single_broker)
    failed = {"failed_release": 2, "failed_commit": NEW, "failed_subject": "Break it", "reason": "no such module"}
    failed |= {"failed_author": "Ada", "failed_committed_at_s": 1}
    beat(single_broker, replace(W1, **failed))
    advance(single_broker)

    found = recorded("queue.release_reverted")

    assert (found["release"], found["commit"], found["subject"]) == ((2, 1), (NEW, OLD), ("Break it", "Greet"))
    reverted = Release.objects.get(number=2)
    assert (reverted.author, reverted.committed_at) == ("Ada", datetime.fromtimestamp(1, UTC))
    assert found["reason"] == (None, "w1 could not start it: no such module")
    assert reverted.output == ""


def test_a_release_that_does_not_start_has_file_and_line_and_the_end_of_what_was_printed() -> None:
    traceback = 'Traceback (most recent call last):\n  File "main.py", line 3, in <module>\nImportError: no\0 b'
    printed = f"the child process exited with status 1\n{'x' * OUTPUT_MAX_CHARS}\n{traceback}"

    found = step(release(workers=["w1"]), replace(W1, failed_release=2, reason=printed))

    assert isinstance(found, Reverted)
    assert found.reason == "w1 could not start it: ImportError: no\ufffd b (main.py, line 3)"
    assert found.output.endswith(traceback.replace("\0", "\ufffd"))
    assert (len(found.output), found.output.partition("\n")[0]) == (OUTPUT_MAX_CHARS, printed.partition("\n")[0])


@pytest.mark.usefixtures("configuration")
def test_a_failure_of_one_queue_stops_the_first_release_and_the_rollout_of_no_other(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in ("chat", "mail"):
        save_queue(spec=spec(queue, deployment=DEPLOYMENT), source=QueueSource.API)
    revisions = {queue: get_fresh_catalog(0).queue_revision(queue) for queue in ("chat", "mail")}
    beat(single_broker, *(replace(worker(f"w{n}"), queue=q, revision=r) for n, (q, r) in enumerate(revisions.items())))

    def fail_for_chat(change: Any, row: Queue) -> None:
        if row.name == "chat":
            raise ValueError("a bug")
        publish_releases(change, row)

    monkeypatch.setattr(releases, "publish_releases", fail_for_chat)
    monkeypatch.setattr(rollouts, "publish_releases", fail_for_chat)
    with capture_logs() as entries:
        make_first_releases(single_broker)
    first = list(Release.objects.values_list("queue__name", flat=True))
    for row in Queue.objects.order_by("name"):
        Release.objects.create(queue=row, number=2, commit=NEW, state=ReleaseState.ROLLING_OUT, created_at=NOW)
    advance(single_broker)

    assert first == ["mail"]
    assert [entry["queue"] for entry in entries if entry["event"] == "first_release_failed"] == ["chat"]
    assert dict(Release.objects.filter(number=2).values_list("queue__name", "workers")) == {"chat": [], "mail": ["w1"]}


def test_two_processes_take_a_step_once(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1, W2)
    redeploy_queue(name="mail", commit=NEW)
    seen = Release.objects.select_related("queue").get(number=2)
    advance(single_broker)
    revision = get_fresh_catalog(0).queue_revision("mail")

    take_step(seen, Reverted("seen before the other process went on"))

    assert Release.objects.get(number=2).state == ReleaseState.ROLLING_OUT
    assert get_fresh_catalog(0).queue_revision("mail") == revision


def test_a_redeploy_without_a_newer_commit_ends_at_once(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1)
    redeploy_queue(name="mail")

    finish(single_broker, 2, OLD)

    assert states() == [(1, "live", OLD), (2, "superseded", OLD)]


def test_rolling_back_twice_goes_two_releases_back(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1)
    for number, commit in ((2, NEW), (3, "c" * 40)):
        redeploy_queue(name="mail", commit=commit)
        finish(single_broker, number, commit)

    assert roll_back(name="mail").commit == NEW
    finish(single_broker, 4, NEW)
    assert roll_back(name="mail").commit == OLD
    finish(single_broker, 5, OLD)

    with pytest.raises(ReleaseMissing, match="No release of the queue mail was live before"):
        roll_back(name="mail")


def test_a_rollback_during_a_rollout_goes_to_the_live_release(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1)
    redeploy_queue(name="mail", commit=NEW)
    advance(single_broker)

    back = roll_back(name="mail")

    assert (back.commit, back.like) == (OLD, 1)
    assert [state for _, state, _ in states()] == ["live", "superseded", "rolling_out"]


@pytest.mark.parametrize(
    ("changes", "commit"),
    [
        ({"startup_cmd": "python other.py"}, OLD),
        ({"requirements_file": "other.txt"}, OLD),
        ({"branch": "next"}, ""),
        ({"git_url": "https://git.example.com/other.git"}, ""),
        ({"env_vars": {"A": "1"}}, None),
        ({"startup_timeout_s": 7}, None),
    ],
)
def test_what_a_release_fixes_makes_one_when_it_is_changed(
    mail: Queue, changes: dict[str, Any], commit: str | None
) -> None:
    save_queue(spec=spec("mail", deployment=replace(DEPLOYMENT, **changes)), source=QueueSource.FILE)

    made = Release.objects.filter(source=ReleaseSource.DEFINITION)
    assert list(made.values_list("commit", flat=True)) == ([] if commit is None else [commit])


def test_a_definition_that_changes_before_the_first_release_is_live_replaces_it(configuration: None) -> None:
    save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)
    redeploy_queue(name="mail", commit=NEW)

    save_queue(spec=spec("mail", deployment=replace(DEPLOYMENT, startup_cmd="python b.py")), source=QueueSource.API)
    save_queue(spec=spec("mail", deployment=replace(DEPLOYMENT, branch="next")), source=QueueSource.API)

    assert states() == [(1, "superseded", NEW), (2, "superseded", NEW), (3, "rolling_out", "")]
    found = find_worker_release("mail", "any")
    assert found is not None
    assert found.branch == "next"


def test_a_changed_definition_after_a_rollback_names_no_commit_of_another_repository(
    mail: Queue, single_broker: Broker
) -> None:
    other = replace(DEPLOYMENT, git_url="https://git.example.com/other.git")
    save_queue(spec=spec("mail", deployment=other), source=QueueSource.API)
    beat(single_broker, W1)
    finish(single_broker, 2, NEW)
    roll_back(name="mail")
    finish(single_broker, 3, OLD)

    save_queue(spec=spec("mail", deployment=replace(other, startup_cmd="python b.py")), source=QueueSource.API)

    made = Release.objects.get(number=4)
    assert (made.git_url, made.commit) == (other.git_url, "")


def test_reloading_an_unchanged_file_after_a_rollback_changes_nothing(mail: Queue, single_broker: Broker) -> None:
    changed = spec("mail", deployment=replace(DEPLOYMENT, startup_cmd="python other.py"))
    save_queue(spec=changed, source=QueueSource.FILE)
    beat(single_broker, W1)
    finish(single_broker, 2, OLD)
    roll_back(name="mail")
    before = states()

    save_queue(spec=changed, source=QueueSource.FILE)

    assert states() == before
    assert Release.objects.get(number=3).startup_cmd == DEPLOYMENT.startup_cmd


@pytest.mark.parametrize("commit", ["abc1234", "a b", "-x", "x..y"])
def test_what_names_no_commit_is_refused(mail: Queue, commit: str) -> None:
    with pytest.raises(RequestInvalid, match=r"^commit: "):
        redeploy_queue(name="mail", commit=commit)


def test_the_last_releases_are_kept_and_the_live_one(mail: Queue) -> None:
    for number in range(RELEASES_KEPT + 3):
        redeploy_queue(name="mail", commit=f"{number:040x}")

    assert Release.objects.count() == RELEASES_KEPT
    assert Release.objects.get(state=ReleaseState.LIVE).number == 1
