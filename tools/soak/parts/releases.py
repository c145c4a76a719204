"""Releases under load: bad commits, kills in the middle of rollouts, a rewritten branch, no database, rollbacks."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from tools.soak import processes
from tools.soak.checker import Evidence, Fault, check
from tools.soak.draining import collect, drain
from tools.soak.faults import Nemesis
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import ROOT, ManagedProcess, wait_for
from tools.soak.report import Report, counted, spread
from tools.soak.stack import SHUTDOWN_S, Stack, StackParts, running_stack

PART = "releases"
QUEUE = "steady"
REDIS_QUEUES = ("steady_high", "steady_low")
WORKERS = ("worker-a", "worker-b", "worker-c")
KINDS = {"ok": 24, "slow": 12, "flaky": 3, "fail": 2, "unique": 8, "batch": 3}
"""What clients request: no task that ends its child, which would count against the release that it ran with."""
LIMITS = "{max_retry: 20, retry_delay: 1s, retry_max_delay: 4s, active_timeout: 20s}"
BACK_WITHIN_S = 90.0
ROLLED_BACK_WITHIN_S = 5.0
ROLLBACKS = 10
AWAY_S = 15.0
PATIENCE_S = 240.0
HANDLER = (ROOT / "tools/soak" / "handler.py").read_text()
BAD = {
    "does not compile": "def handle(:\n",
    "dies in its first task": "def handle(task):\n    os._exit(3)\n",
    "fails three of four tasks": """good = handle
def handle(task):
    return (None, "RuntimeError: this release is bad", True) if uuid.uuid4().int % 4 else good(task)
""",
}
"""Code that takes the place of a part of the handler."""


def run(options: Options, report: Report) -> None:
    rng = options.rng(PART)
    with running_stack(report, rng, StackParts(has_postgresql=True)) as stack:
        report.section(f"Releases under load, seed {options.seed}")
        stack.write_queue_file(limits=LIMITS, rollout="{bake: 5s}")
        client = stack.client()
        client.post("/api/cli/configs/reload")
        for name in WORKERS:
            stack.add_worker(name, queues=QUEUE)
        stack.wait_until_ready(len(WORKERS))
        nemesis = Nemesis(stack, rng)
        campaign = _Campaign(stack, nemesis, report)
        campaign.wait_for_release(1, "live")
        with Load(stack, rng, kinds=KINDS) as load:
            for step in campaign.steps():
                began_s = time.monotonic()
                report.note(step.__doc__ or "")
                step()
                report.note(f"… which took {time.monotonic() - began_s:.0f} s")
        with stack.redis_client() as redis:
            drained_s = drain(stack, [redis], REDIS_QUEUES)
            report.figure(PART, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
            evidence = collect(stack, load, [redis], incidents=nemesis.incidents, queues=REDIS_QUEUES)
        judge(PART, evidence, report)
        report.figure(PART, "responses", counted(stack.statuses))
        report.figure(PART, "load of the machine, over 15 minutes", f"{os.getloadavg()[2]:.0f}")
        for problem in nemesis.problems:
            report.fail(PART, problem)
        client.close()


def judge(part: str, evidence: Evidence, report: Report) -> None:
    """Report what became of the tasks: no release may lose one, or archive one that can succeed."""
    kinds = {task.task_id: task.kind for task in evidence.accepted.values()}
    report.figure(part, "accepted tasks, runs", f"{len(kinds)}, {sum(map(len, evidence.runs.values()))}")
    archived = [task.task_id for task in evidence.tasks.values() if task.state == "archived"]
    wrong = [each for each in archived if kinds.get(each) != "fail" and each not in evidence.canceled]
    report.figure(part, "tasks that a release cost", str(len(wrong)), passed=not wrong)
    report.add_result(part, check(evidence))


class _Campaign:
    """The steps. Each begins and ends with a live release that all workers run."""

    def __init__(self, stack: Stack, nemesis: Nemesis, report: Report) -> None:
        self._stack, self._nemesis, self._report = stack, nemesis, report
        self._client = stack.client()
        self._version = 0

    def steps(self) -> Sequence[Callable[[], None]]:
        return (
            self._take_back,
            self._kill_server,
            self._kill_candidate,
            self._exhaust_workers,
            self._release_twice,
            self._roll_back_meanwhile,
            self._come_back,
            self._rewrite_branch,
            self._stop_database,
            self._time_rollbacks,
        )

    def wait_for_release(self, number: int, state: str) -> dict[str, Any]:
        """Wait until a release has a state. Raise RuntimeError if it ends in another one."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update(self._find(number))
            if seen["state"] not in (state, "rolling_out", ""):
                raise RuntimeError(f"release {number} is {seen['state']}, not {state}: {seen['reason']}")
            return bool(seen["state"] == state)

        wait_for(look, PATIENCE_S, f"release {number} is {state}")
        return seen

    def _take_back(self) -> None:
        """three bad commits, one after the other, and a good one"""
        for name, code in BAD.items():
            before, began_s = self._live_commit(), time.monotonic()
            commit = self._stack.commit({"main.py": HANDLER.replace("\ndef main()", f"\n{code}\n\ndef main()")})
            with self._nemesis.noting(Fault.CHILD_KILLED):  # what dies runs again
                release = self.wait_for_release(self._redeploy(), "reverted")
                reverted_s = time.monotonic() - began_s
                self._wait_for_commit(before)
            self._require_back(name, began_s, f"reverted after {reverted_s:.1f} s: {release['reason']}")
            self._require_touched(name, commit, at_most=1)
        self._release()

    def _kill_server(self) -> None:
        """kill -9 of all processes of the server in the middle of a rollout"""
        commit, number = self._commit(), self._redeploy()
        self._wait_for_candidate(number)
        time.sleep(self._nemesis.rng.uniform(0, 3))
        pids = processes.descendants_of(self._stack.server.pid)
        self._stack.server.kill()
        for pid in pids:
            processes.send_signal(pid, signal.SIGKILL)
        time.sleep(AWAY_S)
        self._require_touched("while the server is away", commit, at_most=1)
        self._stack.server.start()
        began_s = time.monotonic()
        self.wait_for_release(number, "live")
        self._wait_for_commit(commit)
        self._report.figure(PART, "server killed: live after its start", f"{time.monotonic() - began_s:.1f} s")

    def _kill_candidate(self) -> None:
        """kill -9 of the first worker of a rollout, of which another takes the place; then of both of another one"""
        commit, number = self._commit(), self._redeploy()
        first = self._wait_for_candidate(number)
        with self._nemesis.kill_worker(first):
            self.wait_for_release(number, "live")
        self._wait_for_commit(commit)
        self._commit()
        number = self._redeploy()
        first = self._wait_for_candidate(number)
        with ExitStack() as killed:
            killed.enter_context(self._nemesis.kill_worker(first))
            second = self._wait_for_candidate(number, other_than=first)
            killed.enter_context(self._nemesis.kill_worker(second))
            release = self.wait_for_release(number, "reverted")
        self._wait_for_commit(commit)
        self._report.figure(PART, "both of its first workers killed", release["reason"])

    def _exhaust_workers(self) -> None:
        """no worker has free file descriptors when a release is made"""
        commit = self._commit()
        with ExitStack() as exhausted:
            for worker in self._stack.workers.values():
                exhausted.enter_context(processes.without_descriptors(worker.pid))
            number = self._redeploy()
            time.sleep(AWAY_S)
            reasons = counted(Counter(record["reason"] for record in self._records()))
            state = self._find(number)["state"]
        self._report.figure(PART, "workers without descriptors", reasons)
        self._report.figure(PART, "a release that they cannot fetch", state, passed=state == "rolling_out")
        began_s = time.monotonic()
        self.wait_for_release(number, "live")
        self._wait_for_commit(commit)
        self._require_back("workers without descriptors", began_s, "")

    def _release_twice(self) -> None:
        """two releases in a row"""
        first_commit, first = self._commit(), self._redeploy()
        commit = self._commit()
        self.wait_for_release(self._redeploy(), "live")
        self._wait_for_commit(commit)
        state = self._find(first)["state"]
        self._report.figure(PART, "the first of two releases in a row", state, passed=state == "superseded")
        self._require_touched("the first of two releases in a row", first_commit, at_most=1)

    def _roll_back_meanwhile(self) -> None:
        """a rollback while a release is rolling out"""
        before = self._live_commit()
        commit, number = self._commit(), self._redeploy()
        self._wait_for_candidate(number)
        began_s = time.monotonic()
        self.wait_for_release(self._roll_back(), "live")
        self._wait_for_commit(before)
        self._require_back("rolled back meanwhile", began_s, self._find(number)["state"])
        self._require_touched("rolled back meanwhile", commit, at_most=1)

    def _come_back(self) -> None:
        """a worker that missed four releases"""
        worker = self._stack.workers[WORKERS[-1]]
        with self._nemesis.noting(Fault.WORKER_STOPPED, worker.name):
            worker.end(timeout_s=SHUTDOWN_S + 30)
        for _ in range(4):
            commit = self._release(workers=len(WORKERS) - 1)
        began_s = time.monotonic()
        worker.start()
        self._wait_for_commit(commit)
        self._require_back("a worker that missed four releases", began_s, "")

    def _rewrite_branch(self) -> None:
        """a force-pushed branch, whose repository has none of the released commits any more"""
        old, before, now = self._live_commit(), self._release(), self._release()
        for _ in range(3):  # `old` is kept by nobody, `before` by everybody
            before, now = now, self._release()
        git = self._stack.git
        git("checkout", "--quiet", "--orphan", "rewritten")
        self._stack.commit({"version": "rewritten"})
        git("branch", "--quiet", "--move", "--force", "rewritten", "main")
        git("reflog", "expire", "--expire=now", "--all")
        git("gc", "--quiet", "--prune=now")
        worker = self._stack.workers[WORKERS[0]]
        with self._nemesis.noting(Fault.WORKER_STOPPED, worker.name):
            worker.end(timeout_s=SHUTDOWN_S + 30)
        worker.start()
        self._wait_for_commit(now)
        new = self._stack.add_worker("worker-new", queues=QUEUE)
        wait_for(lambda: now[:12] in self._record(new)["reason"], PATIENCE_S, "a new worker names the commit")
        self._report.figure(PART, "a new worker after the history was rewritten", self._record(new)["reason"])
        release = self.wait_for_release(self._redeploy(old), "reverted")
        self._report.figure(PART, "a release of a lost commit", release["reason"], passed=old[:12] in release["reason"])
        self._wait_for_commit(now)
        self.wait_for_release(self._roll_back(), "live")
        self._wait_for_commit(before)
        new.end()
        del self._stack.workers[new.name]
        self._release()

    def _stop_database(self) -> None:
        """PostgreSQL is away in the middle of a rollout"""
        if self._stack.database is None:
            self._report.skip(PART, "the database is SQLite (PostgreSQL's programs are not installed)")
            return
        commit, number = self._commit(), self._redeploy()
        self._wait_for_candidate(number)
        with self._nemesis.actions()["database stopped"]():
            time.sleep(AWAY_S)
            self._require_touched("while the database is away", commit, at_most=1)
        self.wait_for_release(number, "live")
        self._wait_for_commit(commit)

    def _time_rollbacks(self) -> None:
        """rollbacks of workers that have the code"""
        self._stack.write_queue_file(limits=LIMITS, rollout="{bake: 0s}")
        self._client.post("/api/cli/configs/reload")
        first_s, all_s = [], []
        older, newer = self._live_commit(), self._release()
        for _ in range(ROLLBACKS):
            began_s = time.monotonic()
            number = self._roll_back()
            wait_for(lambda: self._count_running(older), PATIENCE_S, "a worker has rolled back")
            first_s.append(time.monotonic() - began_s)
            self._wait_for_commit(older)
            all_s.append(time.monotonic() - began_s)
            self.wait_for_release(number, "live")
            self.wait_for_release(self._redeploy(newer), "live")
            self._wait_for_commit(newer)
        self._report.figure(PART, f"rollback: all {len(WORKERS)} workers", spread(all_s))
        self._report.figure(PART, "rollback: the first worker", spread(first_s))
        self._report.require(PART, "rollback: the first worker, worst", max(first_s), at_most=ROLLED_BACK_WITHIN_S)

    def _commit(self) -> str:
        self._version += 1
        return self._stack.commit({"main.py": f"{HANDLER}# {self._version}\n"})

    def _release(self, *, workers: int = len(WORKERS)) -> str:
        """Release a good commit, wait until it is live, and return it."""
        commit = self._commit()
        self.wait_for_release(self._redeploy(), "live")
        self._wait_for_commit(commit, workers=workers)
        return commit

    def _redeploy(self, commit: str = "") -> int:
        body = {"commit": commit}
        number: int = self._client.post(f"/api/cli/queues/{QUEUE}/redeploy", body)["release"]
        return number

    def _roll_back(self) -> int:
        number: int = self._client.post(f"/api/cli/queues/{QUEUE}/rollback")["release"]
        return number

    def _list(self) -> list[dict[str, Any]]:
        reply = self._client.send("GET", f"/api/cli/queues/{QUEUE}/releases")
        releases: list[dict[str, Any]] = reply.content["releases"] if reply.status == 200 else []
        return releases

    def _find(self, number: int) -> dict[str, Any]:
        found = [release for release in self._list() if release["number"] == number]
        return found[0] if found else {"state": "", "workers": []}

    def _live_commit(self) -> str:
        return next(str(release["commit"]) for release in self._list() if release["state"] == "live")

    def _wait_for_candidate(self, number: int, *, other_than: ManagedProcess | None = None) -> ManagedProcess:
        """Return the first worker of a rollout."""
        found: list[ManagedProcess] = []

        def look() -> bool:
            ids = self._find(number)["workers"]
            pids = [record["pid"] for record in self._records() if record["worker_id"] in ids]
            found[:] = [each for each in self._stack.workers.values() if each.pid in pids and each is not other_than]
            return bool(found)

        wait_for(look, PATIENCE_S, f"release {number} has a first worker")
        return found[0]

    def _records(self) -> list[dict[str, Any]]:
        workers = self._client.send("GET", "/api/cli/workers").content.get("workers", [])
        return [worker for worker in workers if not worker["is_stale"]]

    def _record(self, worker: ManagedProcess) -> dict[str, Any]:
        return next((each for each in self._records() if each["pid"] == worker.pid), {"reason": ""})

    def _count_running(self, commit: str) -> int:
        return sum(worker["commit"] == commit and worker["state"] == "ready" for worker in self._records())

    def _wait_for_commit(self, commit: str, *, workers: int = len(WORKERS)) -> None:
        wait_for(lambda: self._count_running(commit) == workers, PATIENCE_S, f"{workers} workers run {commit[:12]}")

    def _require_back(self, what: str, began_s: float, how: str) -> None:
        seconds = time.monotonic() - began_s
        self._report.require(PART, f"{what}: all workers back", seconds, at_most=BACK_WITHIN_S)
        if how:
            self._report.note(how)

    def _require_touched(self, what: str, commit: str, *, at_most: int) -> None:
        """Count the workers that have deployed a commit."""
        logs = {worker.name: worker.log.read_text().splitlines() for worker in self._stack.workers.values()}
        touched = [
            name for name, lines in logs.items() if any('"deployed"' in each and commit in each for each in lines)
        ]
        self._report.require(PART, f"{what}: workers touched", len(touched), at_most=at_most, unit="")
