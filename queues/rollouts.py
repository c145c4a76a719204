"""Give a release to a queue's workers: first to a few, then to the others, or to none if it fails.

The state is in the row of the release, so that any maintenance process takes the next step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from django.db.models import Exists, OuterRef
from django.utils import timezone

from queues.definitions import CODE_COLUMNS
from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.queries import get_fresh_catalog
from queues.releases import (
    COMMIT,
    code_of,
    create_release,
    end_release,
    find_release,
    publish_releases,
    release_changes,
)
from runqy.audit.operations import Changes, record
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import DeploymentStep, WorkerRecord, WorkerState
from runqy.configuration.operations import configuration_change
from runqy.core.formats.durations import humanize_exactly
from runqy.core.formats.error_texts import find_error_line, find_start_error, shorten
from runqy.maintenance.failed_rows import RowFailures

log = structlog.get_logger(__name__)
_rollouts = RowFailures("rollout")
_first_releases = RowFailures("first release")

LONGEST_BAKE = timedelta(minutes=10)
"""How long the first workers wait for a task that ends, if there is none, and for more if the first ones fail."""
OUTPUT_MAX_CHARS = 4_000
"""How much is kept of what a process printed that did not start. Each of the releases of a queue may have so much."""
_NAMED_WORKERS = 3
JUDGED_RUNS = 10
"""From how many runs on their failures say something."""
_DONE_IN = {
    DeploymentStep.FETCH: "fetch it",
    DeploymentStep.INSTALL: "install its requirements",
    DeploymentStep.START: "start it",
}
_ENDING = (WorkerState.DRAINING, WorkerState.STOPPING)


@dataclass(frozen=True, slots=True)
class Live:
    """All workers run the release."""


@dataclass(frozen=True, slots=True)
class Reverted:
    """All workers go back to the live release."""

    reason: str
    output: str = ""
    """Of a release that a worker could not run: all that it reports, if that is more than a line."""
    found: dict[str, object] = field(default_factory=dict)
    """Columns with the commit that the first worker found, and what git says about it; empty if it found none."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The rollout goes on, with these changes of its row."""

    changes: dict[str, object]


Step = Live | Reverted | Wait
GO_ON = Wait({})


def decide(release: Release, queue: Queue, workers: Sequence[WorkerRecord], *, now: datetime) -> Step:
    """Return the next step of a rollout. `workers` are those of the queue that run releases and are connected."""
    workers, candidates = _select(release, queue, workers)
    given = set(release.workers)
    failed = [worker for worker in candidates if worker.failed_release == release.number]
    is_rollback = release.source == ReleaseSource.ROLLBACK
    # A rollback goes on with those that can run it: not all may have its code, and its repository may be gone.
    if failed and not (is_rollback and len(failed) < len(workers)):
        return _revert(failed[0])
    if not release.subject and (found := _find_commit(release, candidates)):
        return Wait(found)
    if not given and not release.is_whole:
        return _begin(release, queue, workers)
    missing = given - {worker.worker_id for worker in candidates}
    if missing and not release.is_baked:
        return _replace_lost(release, workers, missing)
    is_running = bool(workers) and all(_runs(worker, release) for worker in candidates if worker not in failed)
    if not release.is_baked:
        return _bake(release, queue, candidates, now, is_running=is_running)
    return _go_on(queue, candidates, workers) if is_running else GO_ON


def explain_wait(release: Release, queue: Queue, workers: Sequence[WorkerRecord]) -> str:
    """Return what a rollout waits for while it has no next step."""
    _, candidates = _select(release, queue, workers)
    if not queue.is_enabled:
        return "waits until the queue is enabled"
    if not candidates:
        return "waits for a worker"
    starting = [worker for worker in candidates if not _runs(worker, release)]
    if names := sorted(worker.worker_id for worker in starting if worker.failed_release != release.number):
        more = f" and {len(names) - _NAMED_WORKERS} more" if len(names) > _NAMED_WORKERS else ""
        return f"waits for {', '.join(names[:_NAMED_WORKERS])}{more} to start it"
    runs, failures = _count_runs(release, candidates)
    if _is_worse(release, runs, failures):
        return f"waits for {JUDGED_RUNS} runs, since {failures} of {runs} failed"
    if runs:
        return f"waits until its first workers have run it for {humanize_exactly(queue.rollout_bake_s)}"
    return f"waits for a first task, for {humanize_exactly(int(LONGEST_BAKE.total_seconds()))} at most"


def _select(
    release: Release, queue: Queue, workers: Sequence[WorkerRecord]
) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """Return the workers that can take a release, and of these those that have it."""
    # Those that end take none any more: they count as disconnected. Of a disabled queue all drain, and come back.
    able = [worker for worker in workers if worker.state not in _ENDING or not queue.is_enabled]
    return able, [worker for worker in able if release.is_whole or worker.worker_id in release.workers]


def _revert(failed: WorkerRecord) -> Reverted:
    output = replace_nul(failed.reason)
    find_error = find_start_error if failed.failed_step is DeploymentStep.START else find_error_line
    error = find_error(output) or output
    about = _about(failed.failed_commit, failed.failed_subject, failed.failed_author, at_s=failed.failed_committed_at_s)
    found = about if COMMIT.fullmatch(failed.failed_commit) else {}
    kept = shorten(output, OUTPUT_MAX_CHARS) if "\n" in output else ""
    return Reverted(f"{failed.worker_id} could not {_DONE_IN[failed.failed_step]}: {error}", kept, found)


def _go_on(queue: Queue, candidates: Sequence[WorkerRecord], workers: Sequence[WorkerRecord]) -> Step:
    """Give the release to some more workers, also if all that had it are gone; once all run it, it is live.

    Workers that are not ready run nothing that could fail, and may be broken: they follow once it is live.
    """
    others = [worker for worker in workers if worker not in candidates and _is_ready(worker)]
    if not others:
        return Live()
    ids = {worker.worker_id for worker in (*candidates, *by_load(others)[: step_size(queue, workers)])}
    return Wait({"workers": sorted(ids)})


def _begin(release: Release, queue: Queue, workers: Sequence[WorkerRecord]) -> Step:
    """Choose the first workers, and keep how the live release does on all of them."""
    ready = [worker for worker in workers if _is_ready(worker)] or workers
    if not ready:
        return GO_ON
    return Wait(
        {
            "workers": sorted(worker.worker_id for worker in by_load(ready)[: queue.rollout_first]),
            "runs_before": sum(worker.release_runs for worker in workers),
            "failures_before": sum(worker.release_failures for worker in workers),
        }
    )


def _replace_lost(release: Release, workers: Sequence[WorkerRecord], missing: set[str]) -> Step:
    if release.has_lost_worker:
        return Reverted(f"A second of its first workers was lost: {', '.join(sorted(missing))}")
    kept = set(release.workers) - missing
    others = [worker for worker in workers if worker.worker_id not in kept and _is_ready(worker)]
    added = {worker.worker_id for worker in by_load(others)[: len(missing)]}
    return Wait({"workers": sorted(kept | added), "has_lost_worker": True, "ready_at": None})


def _bake(
    release: Release, queue: Queue, candidates: Sequence[WorkerRecord], now: datetime, *, is_running: bool
) -> Step:
    """Judge the runs of the first workers, and let the others follow in time."""
    # Also while they are not ready: children that die again and again seldom are.
    runs, failures = _count_runs(release, candidates)
    if runs < JUDGED_RUNS and any(worker.release_deaths for worker in candidates if worker.release == release.number):
        return Reverted("A process that ran it died while it worked on a task")
    is_worse = _is_worse(release, runs, failures)
    if is_worse and runs >= JUDGED_RUNS:
        return Reverted(f"{failures} of its first {runs} runs failed")
    if not is_running:
        return GO_ON
    if release.ready_at is None:
        return Wait({"ready_at": now})
    baked = now - release.ready_at
    # Of a few runs that fail, more have to be seen.
    is_seen = runs and not is_worse
    is_over = baked >= timedelta(seconds=queue.rollout_bake_s) and (is_seen or baked >= LONGEST_BAKE)
    return Wait({"is_baked": True}) if is_over else GO_ON


def _count_runs(release: Release, candidates: Sequence[WorkerRecord]) -> tuple[int, int]:
    """Return the number of runs of a release on its workers, and of those that failed."""
    ran = [worker for worker in candidates if worker.release == release.number]
    return sum(worker.release_runs for worker in ran), sum(worker.release_failures for worker in ran)


def _is_worse(release: Release, runs: int, failures: int) -> bool:
    """Return whether most runs fail, and few did before."""
    had_few_failures = release.failures_before * 5 < release.runs_before or not release.runs_before
    return failures * 2 > runs and had_few_failures


def _is_ready(worker: WorkerRecord) -> bool:
    return worker.state is WorkerState.READY


def _runs(worker: WorkerRecord, release: Release) -> bool:
    return _is_ready(worker) and worker.release == release.number


def _find_commit(release: Release, candidates: Sequence[WorkerRecord]) -> dict[str, object]:
    """Return what a worker that has deployed its commit, or the newest, reports and the release does not have yet."""
    ran = [worker for worker in candidates if worker.release == release.number and COMMIT.fullmatch(worker.commit)]
    about = _about_running(ran[0]) if ran else {}
    is_news = release.commit in ("", about.get("commit")) and any(
        about[name] != getattr(release, name) for name in about
    )
    return about if is_news else {}


def _about_running(worker: WorkerRecord) -> dict[str, object]:
    return _about(worker.commit, worker.commit_subject, worker.commit_author, at_s=worker.committed_at_s)


def _about(commit: str, subject: str, author: str, *, at_s: int) -> dict[str, object]:
    """Return the columns of a commit."""
    return {
        "commit": commit,
        "subject": replace_nul(subject[:200]),
        "author": replace_nul(author[:200]),
        "committed_at": datetime.fromtimestamp(at_s, UTC) if at_s else None,
    }


def step_size(queue: Queue, workers: Sequence[WorkerRecord]) -> int:
    return max(len(workers) * queue.rollout_max_unavailable // 100, 1)


def by_load(workers: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    return sorted(workers, key=lambda worker: (len(worker.running), worker.worker_id))


def advance_rollouts(broker: Broker) -> bool:
    """Take the next step of each rollout. Return whether there was one. Raise BrokerUnavailable."""
    _rollouts.begin_pass()
    rolling_out = Release.objects.filter(state=ReleaseState.ROLLING_OUT).values_list("pk", "queue__name")
    found = [(pk, queue) for pk, queue in rolling_out if not _rollouts.is_paused(pk)]
    if not found:
        return False
    records = connected_workers(broker)
    for pk, queue in found:
        with _rollouts.isolate(pk, name=f"of {queue}", queue=queue):
            release = Release.objects.select_related("queue").filter(pk=pk).first()
            if release is None:  # deleted with its queue
                continue
            workers = [worker for worker in records if worker.queue == queue]
            step = decide(release, release.queue, workers, now=timezone.now())
            if step == GO_ON:
                step = Wait({"reason": explain_wait(release, release.queue, workers)})
            if step != Wait({"reason": release.reason}):
                take_step(release, step)
    return True


def take_step(seen: Release, step: Step) -> None:
    """Apply a step, unless another process, or a user, was first."""
    with configuration_change() as change:
        release = Release.objects.select_related("queue").filter(pk=seen.pk).first()
        if release is None or _state_of(release) != _state_of(seen):
            return
        name = release.queue.name
        if isinstance(step, Wait):
            _save_columns(release, step.changes)
            if _repeats_live(release):
                end_release(release, ReleaseState.SUPERSEDED, reason="The branch has the commit that is live")
        elif isinstance(step, Reverted):
            live = find_release(release.queue, ReleaseState.LIVE)
            state = ReleaseState.REVERTED if live else ReleaseState.FAILED
            if step.found and not release.subject and release.commit in ("", step.found["commit"]):
                _save_columns(release, step.found)
            end_release(release, state, reason=step.reason, output=step.output)
            changes = release_changes(release, live) if live else release_changes(None, release)
            _record("queue.release_reverted", release.queue, {**changes, "reason": (None, step.reason)})
        else:
            if live := find_release(release.queue, ReleaseState.LIVE):
                end_release(live, ReleaseState.SUPERSEDED)
            release.state, release.reason, release.live_at = ReleaseState.LIVE, "", timezone.now()
            release.save(update_fields=["state", "reason", "live_at"])
            _record("queue.released", release.queue, release_changes(live, release))
        publish_releases(change, release.queue)
    log.info("rollout", queue=name, release=release.number, state=str(release.state), workers=len(release.workers))


def make_first_releases(broker: Broker) -> None:
    """Make the commit that a worker runs the first release of a queue without one. Raise BrokerUnavailable."""
    released = Release.objects.filter(queue=OuterRef("pk"), state__in=(ReleaseState.LIVE, ReleaseState.ROLLING_OUT))
    names = set(Queue.objects.filter(~Exists(released)).values_list("name", flat=True))
    if not names:
        return
    catalog = get_fresh_catalog(max_age_s=0)
    _first_releases.begin_pass()
    for worker in connected_workers(broker):
        # One that registered before the definition changed may run other code.
        if worker.queue not in names or _first_releases.is_paused(worker.queue):
            continue
        is_current = worker.revision == catalog.queue_revision(worker.queue)
        if is_current and worker.state is WorkerState.READY and not worker.reason and COMMIT.fullmatch(worker.commit):
            names.discard(worker.queue)
            with _first_releases.isolate(worker.queue, name=f"of {worker.queue}", queue=worker.queue):
                _make_first_release(worker)


def _make_first_release(worker: WorkerRecord) -> None:
    with configuration_change() as change:
        row = Queue.objects.filter(name=worker.queue).first()
        if row is None or any(find_release(row, state) for state in (ReleaseState.LIVE, ReleaseState.ROLLING_OUT)):
            return
        about = _about_running(worker)
        release = create_release(
            change, row, code_of(row), commit=worker.commit, source=ReleaseSource.FIRST, state=ReleaseState.LIVE
        )
        _save_columns(release, about)
        _record("queue.released", row, release_changes(None, release))


def connected_workers(broker: Broker) -> list[WorkerRecord]:
    """Return the workers that run releases and send heartbeats."""
    now_s = broker.now_s()
    return [
        record for record in list_worker_records(broker) if record.release is not None and not record.is_stale(now_s)
    ]


def _repeats_live(release: Release) -> bool:
    """Return whether a rollout of the newest commit has turned out to be of what is live."""
    live = find_release(release.queue, ReleaseState.LIVE)
    if live is None or release.source not in (ReleaseSource.MANUAL, ReleaseSource.PUSH):
        return False
    return (live.commit, *_code(live)) == (release.commit, *_code(release))


def _code(release: Release) -> tuple[str, ...]:
    return tuple(getattr(release, column) for column in CODE_COLUMNS)


def _save_columns(release: Release, columns: Mapping[str, object]) -> None:
    for column, value in columns.items():
        setattr(release, column, value)
    release.save(update_fields=list(columns))


def _state_of(release: Release) -> tuple[object, ...]:
    """Return what a step depends on, as long as nobody else takes it."""
    return release.state, release.commit, release.workers, release.has_lost_worker, release.ready_at, release.is_baked


def _record(action: str, queue: Queue, changes: Changes) -> None:
    record(action=action, object_kind="queue", object_name=queue.name, changes=changes)
