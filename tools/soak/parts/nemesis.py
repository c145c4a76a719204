"""Random faults under load for minutes. Every promise must be kept."""

import random
import time
from collections import Counter, defaultdict
from contextlib import ExitStack

from tools.soak.checker import check
from tools.soak.draining import RECOVERY_S, collect, descriptors, drain
from tools.soak.faults import Nemesis
from tools.soak.load import Load
from tools.soak.measuring import measure_recovery
from tools.soak.options import Options
from tools.soak.report import Report, counted, spread
from tools.soak.stack import Stack, StackParts, running_stack

PART = "nemesis"
MINUTES = 15.0
WORKERS = ("worker-a", "worker-b", "worker-c")
QUEUES_OF_A_WORKER = 3
WAVE_S = (1.0, 6.0)
PAUSE_S = (1.0, 4.0)
ACCEPTED_WITHIN_S = 30.0
"""How soon after a fault tasks must be accepted. Web processes may have to start on a busy machine."""
OFTEN = ("worker kill -9", "worker frozen", "worker SIGTERM", "child kill -9")
"""Faults that are chosen twice as often, because they often hit a worker that runs no task at the time."""
BOTH = 0.35
"""The probability that two faults come together."""


def run(options: Options, report: Report) -> None:
    """Inject faults for some minutes, let the queues drain, and check."""
    rng, minutes = options.rng(PART), options.minutes or MINUTES
    with running_stack(report, rng, StackParts(has_postgresql=True)) as stack:
        report.section(f"Random faults for {minutes:g} minutes, seed {options.seed}")
        database = (
            "PostgreSQL" if stack.database else "SQLite (PostgreSQL's programs are not installed: no faults of it)"
        )
        report.note(f"runqy serve with two web processes, maintenance, {len(WORKERS)} workers, Valkey, {database}")
        for name in WORKERS:
            stack.add_worker(name)
        stack.wait_until_ready(QUEUES_OF_A_WORKER * len(WORKERS))
        nemesis = Nemesis(stack, rng)
        with Load(stack, rng) as load:
            time.sleep(3)
            before = descriptors(stack)
            _inject_faults(stack, nemesis, load, minutes * 60, report)
        _judge(stack, nemesis, load, before, report)


def _inject_faults(stack: Stack, nemesis: Nemesis, load: Load, seconds: float, report: Report) -> None:
    """Inject faults in waves until the time is over. Measure the recovery after each wave."""
    rng, deadline = nemesis.rng, time.monotonic() + seconds
    counts: Counter[str] = Counter()
    accepted_s: dict[str, list[float]] = defaultdict(list)
    done_s: dict[str, list[float]] = defaultdict(list)
    actions = nemesis.actions()
    pending: list[str] = []
    while time.monotonic() < deadline:
        names = _choose_faults(rng, list(actions), pending)
        counts.update(names)
        with ExitStack() as faults:
            for name in names:
                faults.enter_context(actions[name]())
            time.sleep(rng.uniform(*WAVE_S))
        if "queue paused" in names:
            nemesis.resume_queues()
        accepted, done = measure_recovery(stack, load)
        report.note(f"{' + '.join(names)}: accepted after {accepted:.1f} s, done after {done:.1f} s")
        for name in names:
            accepted_s[name].append(accepted)
            done_s[name].append(done)
        time.sleep(rng.uniform(*PAUSE_S))
    for name in sorted(counts):
        text = f"{counts[name]} times; accepted again: {spread(accepted_s[name])}; done again: {spread(done_s[name])}"
        report.figure(PART, name, text)
    report.require(PART, "slowest until accepted", max(map(max, accepted_s.values())), at_most=ACCEPTED_WITHIN_S)
    report.require(PART, "slowest until done", max(map(max, done_s.values())), at_most=RECOVERY_S + 5)


def _choose_faults(rng: random.Random, names: list[str], pending: list[str]) -> list[str]:
    """Return one fault, or two of different targets. Each is chosen once (OFTEN: twice) before any comes again."""
    picked: list[str] = []
    for _ in range(2 if rng.random() < BOTH else 1):
        if not pending:
            bag = [*names, *OFTEN]
            pending += rng.sample(bag, len(bag))
        name = next((name for name in pending if not {_target(name)} & {*map(_target, picked)}), None)
        if name is not None:
            pending.remove(name)
            picked.append(name)
    return picked


def _target(name: str) -> str:
    """Return what a fault is done to. A Redis that is stopped takes no commands, so these are faults of Redis too."""
    if name in ("SCRIPT FLUSH", "CLIENT KILL"):
        return "Redis"
    return name.split(maxsplit=1)[0].removesuffix("'s").removesuffix("s'")


def _judge(stack: Stack, nemesis: Nemesis, load: Load, before: dict[str, int], report: Report) -> None:
    """Let the queues drain, and check what is left."""
    nemesis.resume_queues()
    for worker in stack.workers.values():
        worker.start()
    with stack.redis_client() as client:
        drained_s = drain(stack, [client])
        report.figure(PART, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
        evidence = collect(stack, load, [client], incidents=nemesis.incidents, before=before)
    report.figure(PART, "accepted tasks", f"{len(load.accepted)} ({counted(_kinds(load))})")
    report.figure(PART, "runs", str(sum(map(len, evidence.runs.values()))))
    states = Counter(task.state for task in evidence.tasks.values())
    report.figure(PART, "tasks by state", counted(states))
    report.figure(PART, "responses", counted(stack.statuses))
    report.add_result(PART, check(evidence))
    for problem in nemesis.problems:
        report.fail(PART, problem)


def _kinds(load: Load) -> Counter[str]:
    return Counter(task.kind for task in load.accepted.values())
