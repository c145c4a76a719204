"""Releases: what makes one, what it is, what is published of it, and how a rollout is stored."""

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
from queues.queries import get_fresh_catalog, get_published_releases
from queues.releases import RELEASES_KEPT, publish_releases, redeploy_queue, roll_back
from queues.rollouts import (
    Reverted,
    advance_rollouts,
    make_first_releases,
    take_step,
)
from runqy.audit.admin.presenters import summarize
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord
from runqy.errors import ReleaseMissing, RequestInvalid
from tests.api.client import ApiClient, content
from tests.queues.samples import spec
from tests.support.releases import N1, NEW, OLD, W1, W2, worker

NOW = timezone.now()
DEPLOYMENT = Deployment(git_url="https://git.example.com/mail.git", startup_cmd="python main.py")


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
    found = get_published_releases("mail").of_worker("any")
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

    numbers = [
        (found := get_published_releases("mail").of_worker(name)) and found.number for name in ("w1", "w2", "w3")
    ]

    assert numbers == [2, 1, 1]


def test_a_release_is_published_as_proving_until_its_first_workers_have_run_it(
    mail: Queue, single_broker: Broker
) -> None:
    def is_proving() -> bool | None:
        found = get_published_releases("mail").of_worker("w1")
        return found and found.number == 2 and found.is_proving

    beat(single_broker, W1, W2)
    redeploy_queue(name="mail", commit=NEW)
    advance(single_broker)
    given = is_proving()
    Queue.objects.update(rollout_bake_s=0)
    beat(single_broker, worker("w1", 2, commit=NEW, release_runs=1))
    advance(single_broker, 3)

    assert (given, is_proving()) == (True, False)


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
        found = get_published_releases("mail").of_worker("w1")
        return bool(found and found.requires_ref)

    redeploy_queue(name="mail", commit=NEW)
    named = requires_ref()
    finish(single_broker, 2, NEW)
    live = requires_ref()
    redeploy_queue(name="mail")
    newest = requires_ref()
    roll_back(name="mail")

    assert (named, live, newest, requires_ref()) == (True, False, False, False)


def test_what_a_rollout_waits_for_is_its_reason_until_it_is_live(mail: Queue, single_broker: Broker) -> None:
    def reason() -> str:
        advance(single_broker, 5)
        return content(ApiClient(), "/api/cli/queues/mail/releases")["releases"][0]["reason"]  # type: ignore[no-any-return]

    Queue.objects.update(rollout_bake_s=0)
    redeploy_queue(name="mail", commit=NEW)
    beat(single_broker, W1)
    assert reason() == "waits for w1 to start it"
    revision = get_fresh_catalog(0).queue_revision("mail")
    beat(single_broker, N1)
    assert reason() == "waits for a first task, for 10 min at most"
    assert get_fresh_catalog(0).queue_revision("mail") == revision  # workers are not told

    beat(single_broker, replace(N1, release_runs=1))
    assert (reason(), states()[-1][1]) == ("", "live")


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
    assert [entry["queue"] for entry in entries if entry["event"] == "row_failed"] == ["chat"]
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


def test_a_rollback_that_is_requested_again_goes_on_and_not_back_to_what_it_left(
    mail: Queue, single_broker: Broker
) -> None:
    beat(single_broker, W1)
    redeploy_queue(name="mail", commit=NEW)
    finish(single_broker, 2, NEW)

    numbers = [roll_back(name="mail").number for _ in range(2)]
    finish(single_broker, 3, OLD)

    assert numbers == [3, 3]
    assert states() == [(1, "superseded", OLD), (2, "superseded", NEW), (3, "live", OLD)]


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
    found = get_published_releases("mail").of_worker("any")
    assert found is not None
    assert found.branch == "next"


def test_a_definition_that_changes_during_a_rollout_goes_on_with_its_commit(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1)
    redeploy_queue(name="mail", commit=NEW)
    Release.objects.filter(number=2).update(is_baked=True)
    other = replace(DEPLOYMENT, startup_cmd="python b.py")
    save_queue(spec=spec("mail", deployment=other), source=QueueSource.API)
    advance(single_broker)

    assert states() == [(1, "live", OLD), (2, "superseded", NEW), (3, "rolling_out", NEW)]
    assert not Release.objects.get(number=3).is_baked  # it proves itself anew
    published = get_published_releases("mail").candidate
    assert published is not None
    assert (published.requires_ref, published.startup_cmd) == (True, "python b.py")

    redeploy_queue(name="mail", commit="v2")
    save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)
    tagged = Release.objects.get(number=5)
    assert (tagged.commit, tagged.branch, tagged.startup_cmd) == ("", "v2", DEPLOYMENT.startup_cmd)


def test_a_redeploy_that_is_repeated_makes_no_other_release(mail: Queue, single_broker: Broker) -> None:
    beat(single_broker, W1)
    numbers = [redeploy_queue(name="mail", commit=commit).number for commit in (NEW, NEW, OLD, OLD, "v2", "v2", "", "")]
    advance(single_broker)

    assert numbers == [2, 2, 3, 3, 4, 4, 5, 5]
    assert redeploy_queue(name="mail").number == 6  # a worker has fetched it meanwhile, and there may be a newer one


def test_requests_of_one_moment_for_two_commits_make_two_releases_and_the_last_one_counts(
    mail: Queue, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "REPEATED_WITHIN", timedelta(days=1))
    beat(single_broker, W1)
    other = "c" * 40

    def redeploy(*commits: str) -> list[int]:
        found = [redeploy_queue(name="mail", commit=commit).number for commit in commits]
        advance(single_broker)
        return found

    assert redeploy(NEW, other, NEW, other) + redeploy(NEW, other, NEW, other) == [2, 3] * 4
    assert [state for _, state, _ in states()] == ["live", "superseded", "rolling_out"]
    assert redeploy(NEW) == [2]
    resumed = Release.objects.get(number=2)
    assert (resumed.state, resumed.reason, resumed.ended_at, resumed.workers) == ("rolling_out", "", None, ["w1"])

    assert (roll_back(name="mail").number, redeploy(other, NEW, other)) == (4, [5, 6, 5])
    Release.objects.filter(number=5).update(state=ReleaseState.REVERTED)
    assert redeploy(other, NEW) == [7, 6]
    monkeypatch.setattr(releases, "REPEATED_WITHIN", timedelta(0))
    assert redeploy(other, NEW) == [8, 9]


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
