"""Releases, rotated secrets and changed variables of two tenants, whose processes load slowly."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tools.soak.checker import Evidence
from tools.soak.draining import collect, drain
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.parts.releases import BAD, HANDLER, judge
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.runs import Run, read_lines
from tools.soak.stack import Stack, running_stack
from tools.soak.threads import BackgroundThreads

PART = "rotations"
ALPHA, BETA = QUEUES = ("alpha", "beta")
WORKERS = 3
"""Of each queue, of which one may be replaced at a time."""
MAX_UNAVAILABLE = 1
KINDS = {"ok": 30, "slow": 3, "fail": 1}
LIMITS = "{max_retry: 20, retry_delay: 1s, retry_max_delay: 4s, active_timeout: 20s}"
QUEUE_FILE = """queues:
  alpha: {{priority: 1, mode: long_running, deployment: {deployment}}}
  beta: {{priority: 1, mode: long_running, deployment: {deployment}}}
"""
BAD_LOAD = 'def load():\n    time.sleep(LOAD_S)\n    raise RuntimeError("no such model")\n'
SAMPLE_S = 0.2
GAP_S = 2.0
"""How long no worker of a queue may be ready: a heartbeat may be late."""
IN_FLIGHT_S = 1.0
"""How long after the verdict about a release a task that was dequeued for it may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was changed, and from when to when workers followed, in Unix s."""

    name: str
    rotated: Sequence[str]
    """The queues whose workers replace their processes."""
    released: Sequence[str]
    is_at_once: bool
    began_at: float
    ended_at: float


def run(options: Options, report: Report) -> None:
    rng = options.rng(PART)
    with running_stack(report, rng) as stack:
        report.section(f"Rotations and releases of processes that load for {options.load_s:g} s, seed {options.seed}")
        campaign = _Campaign(stack, report, options.load_s)
        tenants = campaign.prepare()
        # No task is canceled: the process of one that runs may be killed, and loads again.
        load = Load(stack, rng, kinds=KINDS, pause_s=0.4, tenants=tenants, cancels=False)
        with load, _Readiness(stack) as readiness:
            for act in campaign.list_steps():
                report.note(act.__doc__ or "")
                act()
        with stack.redis_client() as redis:
            drained_s = drain(stack, [redis], QUEUES)
            report.figure(PART, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
            evidence = collect(stack, load, [redis], queues=QUEUES)
        judge(PART, evidence, report)
        judge_waits(campaign.steps, load.accepted_at, evidence.runs, report, load_s=options.load_s)
        judge_gaps(campaign.steps, readiness.gaps, report)
        judge_replacements(campaign.steps, read_lines(stack.journal), report)
        campaign.judge_verdicts(evidence)
        campaign.close()


class _Campaign:
    """The changes. Each step ends when all workers have followed."""

    def __init__(self, stack: Stack, report: Report, load_s: float) -> None:
        self.steps: list[Step] = []
        self._stack, self._report, self._load_s = stack, report, load_s
        self._client = stack.client()
        self._version = self._round = 0
        self._secrets = dict.fromkeys(QUEUES, 0)
        # Queue and release of each bad commit.
        self._bad: list[tuple[str, int]] = []

    def prepare(self) -> dict[str, str]:
        """Create the tenants, and start their workers. Return the keys of the clients."""
        keys = {}
        for queue in QUEUES:
            self._send("POST", "/api/vaults", {"name": queue})
            self._set_secret(queue)
        self._write_queues()
        for queue in QUEUES:
            created = self._send("POST", "/api/keys", {"name": queue, "role": "client", "queues": [queue]})
            keys[queue] = created["key"]
            for number in range(WORKERS):
                self._stack.add_worker(f"{queue}-{number}", queues=queue, RUNQY_PROCESSES="1")
        self._stack.wait_until_ready(WORKERS * len(QUEUES))
        for queue in QUEUES:
            self._wait_for_release(queue, 1, "live")
        return keys

    def list_steps(self) -> Sequence[Callable[[], None]]:
        return (
            self._rotate,
            self._change_variable,
            self._release_and_rotate,
            self._release_failing,
            self._release_unable,
            self._replace_at_once,
        )

    def judge_verdicts(self, evidence: Evidence) -> None:
        """Count what bad releases dequeued after they had been judged."""
        for queue, number in self._bad:
            release = self._find_release(queue, number)
            verdict_at = _unix_s(release["ended_at"])
            runs = [run for of_task in evidence.runs.values() for run in of_task if run.commit == release["commit"]]
            late = [run.started_at - verdict_at for run in runs if run.started_at > verdict_at]
            self._report.figure(PART, f"release {number} of {queue}", release["reason"])
            self._report.require(
                PART,
                f"its runs: {len(runs)}, {len(late)} began after the verdict, the last by",
                max(late, default=0),
                at_most=IN_FLIGHT_S,
            )

    def close(self) -> None:
        self._client.close()

    def _rotate(self) -> None:
        """a secret of one tenant is rotated"""
        with self._step("a secret", rotated=[ALPHA]):
            self._set_secret(ALPHA)
            self._wait_for_env(ALPHA)

    def _change_variable(self) -> None:
        """a variable of both queues changes"""
        with self._step("a variable", rotated=QUEUES):
            self._write_queues()
            self._wait_for_env(*QUEUES)

    def _release_and_rotate(self) -> None:
        """releases of both queues roll out, while a secret of one is rotated"""
        with self._step("two releases and a secret", rotated=[ALPHA], released=QUEUES):
            self._commit()
            numbers = {queue: self._redeploy(queue) for queue in QUEUES}
            self._set_secret(ALPHA)
            for queue, number in numbers.items():
                self._wait_for_release(queue, number, "live")
            self._wait_for_env(*QUEUES)

    def _release_failing(self) -> None:
        """a release fails most tasks, while a secret of its queue is rotated and a variable of both changes"""
        with self._step("a failing release, a secret, a variable", rotated=QUEUES, released=[ALPHA]):
            self._commit(BAD["fails three of four tasks"])
            number = self._redeploy(ALPHA)
            self._set_secret(ALPHA)
            self._write_queues()
            self._wait_for_verdict(ALPHA, number)
            self._wait_for_env(*QUEUES)

    def _release_unable(self) -> None:
        """a release does not start after its load, while secrets of both queues are rotated"""
        with self._step("a release that does not start, secrets", rotated=QUEUES, released=[BETA]):
            self._commit(BAD_LOAD)
            number = self._redeploy(BETA)
            for queue in QUEUES:
                self._set_secret(queue)
            self._wait_for_verdict(BETA, number)
            self._wait_for_env(*QUEUES)

    def _replace_at_once(self) -> None:
        """a leaked secret of one tenant is replaced at once"""
        with self._step("a leaked secret", rotated=[ALPHA], is_at_once=True):
            self._set_secret(ALPHA, replace_at_once=True)
            self._wait_for_env(ALPHA)

    @contextmanager
    def _step(
        self, name: str, *, rotated: Sequence[str], released: Sequence[str] = (), is_at_once: bool = False
    ) -> Iterator[None]:
        began_at = time.time()
        yield
        times = {"began_at": began_at, "ended_at": time.time()}
        self.steps.append(Step(name=name, rotated=rotated, released=released, is_at_once=is_at_once, **times))
        self._report.note(f"… which took {time.time() - began_at:.0f} s")

    def _set_secret(self, queue: str, **members: object) -> None:
        self._secrets[queue] += 1
        body = {"key": "SOAK_SECRET", "value": f"{queue}-{self._secrets[queue]}", **members}
        self._send("POST", f"/api/vaults/{queue}/entries", body)

    def _write_queues(self) -> None:
        """Change the variable of both queues."""
        self._round += 1
        variables = {"SOAK_LOAD_S": f"{self._load_s:g}", "SOAK_ROUND": str(self._round)}
        self._stack.write_queue_file(QUEUE_FILE, limits=LIMITS, rollout="{bake: 20s}", vaults="[VAULT]", **variables)
        path = self._stack.folder / "queues" / "soak.yaml"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line.replace("VAULT", line.split(":")[0].strip()) for line in lines))
        self._send("POST", "/api/cli/configs/reload")

    def _commit(self, code: str = "") -> None:
        self._version += 1
        main = HANDLER.replace("\ndef main()", f"\n{code}\n\ndef main()")
        self._stack.commit({"main.py": f"{main}# {self._version}\n"})

    def _redeploy(self, queue: str) -> int:
        return int(self._send("POST", f"/api/cli/queues/{queue}/redeploy", {"commit": ""})["release"])

    def _find_release(self, queue: str, number: int) -> dict[str, Any]:
        found = self._client.send("GET", f"/api/cli/queues/{queue}/releases").content.get("releases", [])
        return next((each for each in found if each["number"] == number), {"state": ""})

    def _wait_for_verdict(self, queue: str, number: int) -> None:
        self._wait_for_release(queue, number, "reverted")
        self._bad.append((queue, number))

    def _wait_for_release(self, queue: str, number: int, state: str) -> None:
        def look() -> bool:
            found = self._find_release(queue, number)
            if found["state"] not in (state, "rolling_out", ""):
                raise RuntimeError(f"release {number} of {queue} is {found['state']}: {found['reason']}")
            return bool(found["state"] == state)

        wait_for(look, self._patience_s, f"release {number} of {queue} is {state}")

    def _wait_for_env(self, *queues: str) -> None:
        """Wait until the newest process of each worker is loaded with the present secret and variable."""
        expected = {
            f"{queue}-{number}": f"{queue}-{self._secrets[queue]} {self._round}"
            for queue in queues
            for number in range(WORKERS)
        }

        def look() -> bool:
            loads = [line for line in read_lines(self._stack.journal) if line["event"] == "loaded"]
            newest = {line["worker"]: line["env"] for line in loads}
            return all(newest.get(worker) == env for worker, env in expected.items())

        wait_for(look, self._patience_s, f"workers of {' and '.join(queues)} have the present environment")

    @property
    def _patience_s(self) -> float:
        """How long all workers of a queue may take, one after the other, for two changes."""
        return 120 + 2 * (WORKERS + 1) * (self._load_s + 10)

    def _send(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        reply = self._client.send_until_clear(method, path, body, timeout_s=30)
        if reply.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {reply.status} {reply.content}")
        return reply.content


class _Readiness(BackgroundThreads):
    """A thread that looks whether each queue has a ready worker."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(patience_s=30)
        # By queue: when none was ready, from the first look to the first one that found one again, in Unix s.
        self.gaps: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._client = stack.client()
        self.add_thread(self._watch)

    def _watch(self) -> None:
        since: dict[str, float] = {}
        while self.waits(SAMPLE_S):
            reply = self._client.send("GET", "/api/cli/workers")
            if reply.status != 200:
                continue
            ready = {each["queue"] for each in reply.content["workers"] if each["state"] == "ready"}
            now = time.time()
            for queue in QUEUES:
                if queue not in ready:
                    since.setdefault(queue, now)
                elif (began_at := since.pop(queue, None)) is not None:
                    self.gaps[queue].append((began_at, now))


def judge_waits(
    steps: Sequence[Step],
    accepted_at: Mapping[str, float],
    runs: Mapping[str, Sequence[Run]],
    report: Report,
    *,
    load_s: float,
) -> None:
    """The load of a process is in no task's wait, except where processes were replaced at once."""
    for step in steps:
        waits_s: dict[str, float] = dict.fromkeys(QUEUES, 0.0)
        for task_id, at in accepted_at.items():
            if step.began_at <= at <= step.ended_at and (of_task := runs.get(task_id)):
                queue = of_task[0].worker.rpartition("-")[0]
                waits_s[queue] = max(waits_s[queue], of_task[0].started_at - at)
        for queue, wait_s in waits_s.items():
            what = f"{step.name}: longest wait in {queue}"
            if step.is_at_once and queue in step.rotated:
                report.figure(PART, f"{what}, replaced at once", f"{wait_s:.1f} s")
            else:
                report.require(PART, what, wait_s, at_most=load_s / 2)


def judge_gaps(steps: Sequence[Step], gaps: Mapping[str, Sequence[tuple[float, float]]], report: Report) -> None:
    """Each queue always has a ready worker, except where processes were replaced at once."""
    for queue in QUEUES:
        longest: dict[bool, float] = {False: 0.0, True: 0.0}
        for began_at, ended_at in gaps.get(queue, ()):
            step = next((each for each in reversed(steps) if each.began_at <= began_at), None)
            is_at_once = step is not None and step.is_at_once and queue in step.rotated
            longest[is_at_once] = max(longest[is_at_once], ended_at - began_at)
        report.require(PART, f"longest time without a ready worker of {queue}", longest[False], at_most=GAP_S)
        if longest[True]:
            report.figure(PART, f"the same of {queue}, replaced at once", f"{longest[True]:.1f} s")


def judge_replacements(steps: Sequence[Step], journal: Sequence[dict[str, Any]], report: Report) -> None:
    """Where nothing is released or leaked, so many workers load at once; and none of a queue that nobody changed."""
    for step in steps:
        for queue in QUEUES:
            at_once = _count_at_once(journal, queue, step)
            what = f"{step.name}: workers of {queue} that loaded at once"
            if queue not in (*step.rotated, *step.released):
                report.require(PART, what, at_once, at_most=0, unit="")
            elif step.released or step.is_at_once:
                report.figure(PART, what, str(at_once))
            else:
                report.require(PART, what, at_once, at_most=MAX_UNAVAILABLE, unit="")


def _count_at_once(journal: Sequence[dict[str, Any]], queue: str, step: Step) -> int:
    """Return how many processes of a queue loaded at the same time, of those that began to in a step."""
    loaded_at = {line["pid"]: line["at"] for line in journal if line["event"] == "loaded"}
    changes: list[tuple[float, int]] = []
    for line in journal:
        is_of_step = line["event"] == "loading" and step.began_at <= line["at"] <= step.ended_at
        if is_of_step and line["worker"].startswith(queue):
            changes += [(line["at"], 1), (loaded_at.get(line["pid"], line["at"]), -1)]
    loading = most = 0
    for _, change in sorted(changes):
        loading += change
        most = max(most, loading)
    return most


def _unix_s(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
