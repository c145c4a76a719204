"""Check the invariants: nothing lost, nothing twice, nothing stuck, everything counted and released. No I/O."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tools.soak.runs import Run

ENDED = ("completed", "archived")
CHECKOUTS_KEPT = 3
"""The one that runs, the one that is deployed next, and one that the next deployment deletes."""
SLACK_S = 0.5
"""By how much the times of a fault and of a run may be off: the same clock, read by two processes."""


class Fault(StrEnum):
    """A fault that may end a run, or keep its result from being recorded."""

    WORKER_KILLED = "worker killed"
    WORKER_STOPPED = "worker stopped by SIGTERM"
    CHILD_KILLED = "child killed"
    CUT_OFF = "worker frozen or cut off for longer than a lease"
    REDIS_FAILED_OVER = "Redis failed over to a replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A fault and the worker that it hit."""

    fault: Fault
    worker: str = ""
    """Empty if it hit all workers."""
    began_at: float
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A task that the server accepted with 2xx."""

    task_id: str
    kind: str
    may_be_lost: bool = False
    """Redis failed over within the second in which it was accepted: replication is asynchronous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A task as stored in Redis."""

    task_id: str
    queue: str
    state: str
    number: str = ""
    """The number in the payload. A client uses another one for each task that it wants."""
    result_run: str = ""
    """The run whose result is recorded; empty if there is none."""
    indexes: tuple[str, ...] = ()
    """The states in whose indexes it is, once for each entry."""
    has_owner: bool = False
    has_lookup: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """The counters of a queue."""

    sizes: Mapping[str, int]
    """What Redis lists, by state."""
    reported: Mapping[str, int]
    """The sizes that the API reports, by state."""
    processed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the product at the end of a soak, with the descriptors that it has and may have open."""

    name: str
    descriptors: int
    allowed: int


@dataclass(slots=True, kw_only=True)
class Evidence:
    """All that is known once the faults are over and the queues had time to drain."""

    accepted: Mapping[str, Accepted]
    canceled: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    """The numbers of tasks of which clients were told that they were not stored."""
    tasks: Mapping[str, StoredTask] = field(default_factory=dict)
    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    incidents: Sequence[Incident] = ()
    counts: Mapping[str, QueueCounts] = field(default_factory=dict)
    first_ends: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The first final state that a client saw of each task, and the run of its result."""
    dangling_ids: Sequence[str] = ()
    """Ids in an index that have no task."""
    locks: Sequence[str] = ()
    """Uniqueness locks that are left."""
    orphan_lookups: int = 0
    leftovers: Mapping[int, str] = field(default_factory=dict)
    """Processes that belong to no running worker or server."""
    processes: Sequence[Process] = ()
    checkouts: Mapping[str, int] = field(default_factory=dict)
    """The number of checkouts that each worker keeps of each queue, by folder."""
    errors_500: int = 0
    stuck_workers: Sequence[str] = ()
    """The alerts about ready workers that dequeued nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An invariant that is broken."""

    invariant: str
    detail: str


@dataclass(slots=True, kw_only=True)
class CheckResult:
    """The result of a check."""

    violations: list[Violation]
    reruns: Counter[str]
    """How often tasks ran again, by reason."""
    restarts_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long after a fault the tasks that it hit ran again, by fault. Waiting behind other tasks is included."""
    lost_with_redis: int = 0
    """Accepted tasks that a failover of Redis may lose, and did."""

    @property
    def lost(self) -> int:
        """The number of accepted tasks that are gone and must not be."""
        return sum(violation.invariant == "lost" for violation in self.violations)


def check(evidence: Evidence) -> CheckResult:
    """Check all invariants."""
    result = CheckResult(violations=[], reruns=Counter())
    checks = (
        _find_lost(evidence, result),
        _find_stuck(evidence),
        _find_twice_created(evidence),
        _find_denied(evidence),
        _find_reruns(evidence, result),
        _find_wrong_results(evidence),
        _find_wrong_listing(evidence),
        _find_wrong_counts(evidence),
        _find_leaks(evidence),
    )
    result.violations += [violation for violations in checks for violation in violations]
    return result


def _find_lost(evidence: Evidence, result: CheckResult) -> Iterator[Violation]:
    """Each accepted task exists."""
    for task in evidence.accepted.values():
        if task.task_id not in evidence.tasks:
            if task.may_be_lost:
                result.lost_with_redis += 1
            else:
                yield Violation(invariant="lost", detail=f"{task.task_id} ({task.kind}) was accepted and is gone")


def _find_stuck(evidence: Evidence) -> Iterator[Violation]:
    """Each task ends once the faults are over and workers run, and each ready worker dequeues tasks."""
    for message in evidence.stuck_workers:
        yield Violation(invariant="stuck worker", detail=message)
    for task in evidence.tasks.values():
        if task.state not in ENDED:
            yield Violation(invariant="stuck", detail=f"{task.task_id} is still {task.state} in {task.queue}")
        elif task.has_owner:
            yield Violation(invariant="stuck", detail=f"{task.task_id} is {task.state} and still has an owner")


def _find_twice_created(evidence: Evidence) -> Iterator[Violation]:
    """A task that a client wanted once exists once, however often the client sent the request."""
    ids: dict[str, list[str]] = defaultdict(list)
    for task in evidence.tasks.values():
        ids[task.number].append(task.task_id)
    for number, found in ids.items():
        if number and len(found) > 1:
            yield Violation(invariant="created twice", detail=f"number {number} has {len(found)} tasks: {found}")


def _find_denied(evidence: Evidence) -> Iterator[Violation]:
    """A task of which the client was told that it was not stored does not exist."""
    for task in evidence.tasks.values():
        if task.number in evidence.denied:
            yield Violation(
                invariant="denied", detail=f"{task.task_id} was stored, and its client told that it was not"
            )


def _find_reruns(evidence: Evidence, result: CheckResult) -> Iterator[Violation]:
    """A task runs again only for a reason."""
    for task_id, runs in evidence.runs.items():
        accepted = evidence.accepted.get(task_id)
        for run, following in pairwise(runs):
            reason = _reason_of_its_own(run, following, accepted.kind if accepted else "")
            if not reason and (incident := _find_incident(run, following, evidence.incidents)):
                reason = incident.fault.value
                result.restarts_s[reason].append(following.started_at - max(incident.began_at, run.started_at))
            if not reason and task_id in evidence.canceled:
                reason = "canceled"
            result.reruns[reason or "without a reason"] += 1
            if not reason:
                detail = f"{task_id} ran in {run.worker} ({run.outcome or 'cut off'}) and again in {following.worker}"
                yield Violation(
                    invariant="ran twice", detail=f"{detail}, {following.started_at - run.started_at:.1f} s later"
                )


def _reason_of_its_own(run: Run, following: Run, kind: str) -> str:
    """Return why a task made itself run again; empty if it did not."""
    if run.outcome == "retry" and run.ended_at is not None and run.ended_at <= following.started_at:
        return "the task requested it"
    if run.ended_at is None and kind in ("timeout", "crash"):
        return {"timeout": "its time was over", "crash": "it killed its child"}[kind]
    return ""


def _find_incident(run: Run, following: Run, incidents: Sequence[Incident]) -> Incident | None:
    """Return the last fault that hit a run before the following one began."""
    hits = [
        incident
        for incident in incidents
        if incident.worker in ("", run.worker)
        and incident.began_at <= following.started_at
        and incident.ended_at >= run.started_at - SLACK_S
    ]
    return max(hits, key=lambda incident: incident.began_at, default=None)


def _find_wrong_results(evidence: Evidence) -> Iterator[Violation]:
    """A recorded result is that of a run that succeeded, and it stays the one that a client saw first."""
    for task in evidence.tasks.values():
        succeeded = {run.run_id for run in evidence.runs.get(task.task_id, ()) if run.outcome == "ok"}
        if task.state == "completed" and task.result_run not in succeeded:
            yield Violation(invariant="result", detail=f"{task.task_id} is completed by no run that is known")
        first = evidence.first_ends.get(task.task_id)
        if first is not None and first != (task.state, task.result_run):
            yield Violation(
                invariant="result", detail=f"{task.task_id} was {first}, and is {task.state}, {task.result_run}"
            )
        if (accepted := evidence.accepted.get(task.task_id)) and (wrong := _wrong_end(task, accepted, evidence)):
            yield Violation(invariant="end", detail=f"{task.task_id} ({accepted.kind}) is {task.state}: {wrong}")


def _wrong_end(task: StoredTask, accepted: Accepted, evidence: Evidence) -> str:
    """Return why a task should not have ended in its state; empty if it should."""
    if accepted.kind in ("fail", "crash", "timeout"):
        return "it cannot succeed" if task.state == "completed" else ""
    runs = evidence.runs.get(task.task_id, ())
    is_excused = task.task_id in evidence.canceled or any(run.outcome != "ok" for run in runs) or len(runs) > 1
    return "it was neither canceled nor cut off" if task.state == "archived" and not is_excused else ""


def _find_wrong_listing(evidence: Evidence) -> Iterator[Violation]:
    """A task is in one index once, that of its state, and can be found by its id."""
    for task in evidence.tasks.values():
        if task.indexes != (task.state,):
            listed = ", ".join(task.indexes) or "nothing"
            yield Violation(invariant="counters", detail=f"{task.task_id} is {task.state}, listed as {listed}")
        if not task.has_lookup:
            yield Violation(invariant="lookups", detail=f"{task.task_id} has no lookup")
    for dangling_id in evidence.dangling_ids:
        yield Violation(invariant="counters", detail=f"{dangling_id} is listed and has no task")


def _find_wrong_counts(evidence: Evidence) -> Iterator[Violation]:
    """The API reports what Redis lists, and the counters agree with the tasks."""
    states: dict[str, Counter[str]] = defaultdict(Counter)
    for task in evidence.tasks.values():
        states[task.queue][task.state] += 1
    for queue, counts in evidence.counts.items():
        for state, size in counts.sizes.items():
            if counts.reported.get(state) != size or states[queue][state] != size:
                numbers = f"{size} listed, {states[queue][state]} tasks, {counts.reported.get(state)} reported"
                yield Violation(invariant="counters", detail=f"{queue} {state}: {numbers}")
        if counts.processed - counts.failed != states[queue]["completed"]:
            numbers = f"{counts.processed} processed, {counts.failed} failed"
            yield Violation(invariant="counters", detail=f"{queue}: {numbers}, {states[queue]['completed']} completed")


def _find_leaks(evidence: Evidence) -> Iterator[Violation]:
    """Locks, lookups, processes and descriptors are released, and no response was 500."""
    for lock in evidence.locks:
        yield Violation(invariant="locks", detail=f"{lock} is left")
    if evidence.orphan_lookups:
        yield Violation(invariant="lookups", detail=f"{evidence.orphan_lookups} lookups have no task")
    for pid, command in evidence.leftovers.items():
        yield Violation(invariant="orphans", detail=f"process {pid} is left: {command[:120]}")
    for process in evidence.processes:
        if process.descriptors > process.allowed:
            numbers = f"{process.descriptors} descriptors, {process.allowed} allowed"
            yield Violation(invariant="descriptors", detail=f"{process.name}: {numbers}")
    for folder, count in evidence.checkouts.items():
        if count > CHECKOUTS_KEPT:
            yield Violation(
                invariant="folders", detail=f"{folder} has {count} checkouts, at most {CHECKOUTS_KEPT} are in use"
            )
    if evidence.errors_500:
        yield Violation(invariant="errors", detail=f"{evidence.errors_500} responses were 500")
