"""A batch of 10,000 members under the nemesis calls back once, within 2 s of the last end; batches of one of a key
end soon beside one of 100,000 and bodies of 30 MB of others.
"""

import statistics
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from tools.soak.api import Client, idempotency_key
from tools.soak.faults import Nemesis
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report, counted
from tools.soak.runs import read_runs
from tools.soak.stack import Stack, StackParts, running_stack
from tools.soak.threads import BackgroundThreads

PART = "batches"
MINUTES = 15.0
MEMBERS = 10_000
PARTS = 20
WORKERS = ("worker-a", "worker-b", "worker-c")
MEMBERS_QUEUE, CALLBACK_QUEUE = "steady_high", "canary"
GREEDY_QUEUE, LARGE_QUEUE = "greedy", "large"
CALLED_BACK_WITHIN_S = 2.0
DRAIN_S = 900.0
WAVE_S = (1.0, 6.0)
PAUSE_S = (1.0, 4.0)
GREEDY_MEMBERS, LARGE_BYTES, SMALL_BATCHES = 100_000, 30 << 20, 20
"""The members of another key's batch, a member of a third key, and how many batches of one are awaited beside them."""
SMALL_WITHIN_S = 30.0
CLEAR_S = 120.0
"""How long a request of the client is repeated."""
FAULTS = (
    "worker kill -9",
    "child kill -9",
    "maintenance kill -9",
    "maintenance frozen",
    "gunicorn master kill -9",
    "Redis restarted",
    "Redis kill -9",
    "server's network losing replies",
    "database stopped",
    "database silent",
)


def run(options: Options, report: Report) -> None:
    """Add members to a batch while faults are injected; close it, let it end, and look at its callback."""
    rng, minutes = options.rng(PART), options.minutes or MINUTES
    with running_stack(report, rng, StackParts(has_postgresql=options.has_postgresql is not False)) as stack:
        report.section(f"A batch of {MEMBERS:,} under faults for {minutes:g} minutes, seed {options.seed}")
        if stack.database is None:
            report.note("SQLite: no faults of PostgreSQL")
        stack.add_maintenance("maintenance-b")
        for name in WORKERS:
            stack.add_worker(name, queues="steady,canary")
        stack.wait_until_ready(2 * len(WORKERS))
        nemesis = Nemesis(stack, rng)
        client = _BatchClient(stack, seconds=minutes * 60)
        with client:
            counts = _inject_faults(nemesis, report, minutes * 60)
        report.figure(PART, "faults", counted(counts))
        for worker in stack.workers.values():
            worker.start()
        client.finish()
        _judge(stack, client, report)
        for problem in nemesis.problems:
            report.fail(PART, problem)
        _take_turns(stack, report)


class _BatchClient(BackgroundThreads):
    """Creates a batch, and adds to it all along. What gets no clear response is sent again."""

    def __init__(self, stack: Stack, *, seconds: float) -> None:
        super().__init__(patience_s=CLEAR_S + 10)
        self._stack = stack
        self._every_s = seconds / (PARTS + 1)
        self.batch = self._send(
            "/batches", {"name": "soak", "callback": {"queue": CALLBACK_QUEUE, "payload": {"do": "ok"}}}
        )["id"]
        self.task_ids: list[str] = []
        self.add_thread(self._add_all)

    def finish(self) -> None:
        """Add what is missing, and close the batch."""
        while len(self.task_ids) < MEMBERS:
            self._add()
        self._send(f"/batches/{self.batch}/close", {})

    def _add_all(self) -> None:
        while len(self.task_ids) < MEMBERS and self.waits(self._every_s):
            self._add()

    def _add(self) -> None:
        start, count = len(self.task_ids), MEMBERS // PARTS
        jobs = [{"data": _payload(number)} for number in range(start, start + count)]
        added = self._send(f"/batches/{self.batch}/add", {"queue": MEMBERS_QUEUE, "jobs": jobs})
        self.task_ids += added["task_ids"]

    def _send(self, path: str, body: object) -> dict[str, Any]:
        client = self._stack.client(timeout_s=15)
        key = {"Idempotency-Key": idempotency_key()}
        reply = client.send_until_clear("POST", path, body, headers=key, timeout_s=CLEAR_S)
        client.close()
        if reply.status not in (200, 201):
            raise RuntimeError(f"POST {path}: {reply.status} {reply.content}")
        return reply.content


def _payload(number: int) -> dict[str, Any]:
    """Return the payload of a member: of a hundred, one fails and four fail at first."""
    if number % 100 == 0:
        return {"do": "fail"}
    if number % 25 == 1:
        return {"do": "flaky", "failures": 1}
    return {"do": "ok", "s": 0.1}


def _inject_faults(nemesis: Nemesis, report: Report, seconds: float) -> Counter[str]:
    deadline, counts = time.monotonic() + seconds, Counter[str]()
    actions = {name: fault for name, fault in nemesis.actions().items() if name in FAULTS}
    pending: list[str] = []
    while time.monotonic() < deadline:
        pending = pending or nemesis.rng.sample(list(actions), len(actions))
        name = pending.pop()
        report.note(name)
        with ExitStack() as fault:
            fault.enter_context(actions[name]())
            time.sleep(nemesis.rng.uniform(*WAVE_S))
        counts[name] += 1
        time.sleep(nemesis.rng.uniform(*PAUSE_S))
    return counts


def _judge(stack: Stack, client: _BatchClient, report: Report) -> None:
    api = stack.client(timeout_s=30)

    def has_called_back() -> bool:
        reply = api.send("GET", f"/batches/{client.batch}?limit=1")
        return reply.status == 200 and reply.content["callback"]["state"] not in ("planned", "waiting")

    drained_s = wait_for(has_called_back, DRAIN_S, "the callback is enqueued")
    report.figure(PART, "ended after the faults", f"after {drained_s:.0f} s")
    batch = api.get(f"/batches/{client.batch}?limit=1")
    counts = {state: count for state, count in batch["counts"].items() if count}
    members = set(client.task_ids)
    is_whole = len(members) == batch["total"] == MEMBERS and counts.keys() <= {"completed", "archived"}
    report.figure(PART, "members", counted(Counter(counts)), passed=is_whole)
    callback = batch["callback"]["task_id"]
    wait_for(lambda: api.get(f"/queue/{callback}")["info"]["state"] == "completed", DRAIN_S, "the callback ends")
    enqueued_at = datetime.fromisoformat(api.get(f"/queue/{callback}")["info"]["enqueued_at"])
    runs = read_runs(stack.journal)
    others = runs.keys() - members
    report.figure(PART, "callbacks", str(len(others)), passed=others == {callback})
    last_end_s = max(run.ended_at for task_id in members & runs.keys() for run in runs[task_id] if run.ended_at)
    delay_s = enqueued_at.timestamp() - last_end_s
    report.require(PART, "callback after the last end", delay_s, at_most=CALLED_BACK_WITHIN_S)
    report.figure(PART, "runs of members", str(sum(len(runs.get(task_id, ())) for task_id in members)))
    report.figure(PART, "responses", counted(stack.statuses))
    api.close()


def _take_turns(stack: Stack, report: Report) -> None:
    """Measure how long batches of one take beside what other keys have created."""
    report.section(f"Batches of one beside {GREEDY_MEMBERS:,} members and bodies of {LARGE_BYTES >> 20} MiB of others")
    admin = stack.client(timeout_s=60)
    for name in (GREEDY_QUEUE, LARGE_QUEUE):  # without workers: what is enqueued costs nothing more
        deployment = {"git_url": f"file://{stack.repository}", "startup_cmd": "true"}
        _create(admin, "/api/cli/configs", {"name": name, "priority": 5, "deployment": deployment})
    greedy, large, small = (
        Client(stack.port, _create(admin, "/api/keys", {"name": name})["key"], timeout_s=60, statuses=stack.statuses)
        for name in ("greedy", "large", "small")
    )
    stop = threading.Event()
    sender = threading.Thread(target=_send_large, args=(large, stop))
    batch = _create(greedy, "/batches", {"name": "greedy"})["id"]
    jobs = [{"data": {"n": number}} for number in range(10_000)]
    for _ in range(GREEDY_MEMBERS // len(jobs)):
        greedy.send_until_clear(
            "POST", f"/batches/{batch}/add", {"queue": GREEDY_QUEUE, "jobs": jobs}, timeout_s=CLEAR_S
        )
    sender.start()
    took_s = []
    for _ in range(SMALL_BATCHES):
        began_s = time.monotonic()
        body = {"queue": "canary", "jobs": [{"data": {"do": "ok"}}], "close": True}
        one = _create(small, "/batches", body)["id"]
        wait_for(lambda: small.get(f"/batches/{one}?limit=1")["ended_at"], CLEAR_S, "a batch of one ends")  # noqa: B023
        took_s.append(time.monotonic() - began_s)
    stop.set()
    sender.join()
    report.figure(PART, "a batch of one, median", f"{statistics.median(took_s):.1f} s")
    report.require(PART, "the slowest batch of one", max(took_s), at_most=SMALL_WITHIN_S)
    left = admin.get(f"/batches/{batch}?limit=1")["counts"]
    report.figure(PART, "members of the large batch", counted(Counter({name: n for name, n in left.items() if n})))
    for client in (admin, greedy, large, small):
        client.close()


def _create(client: Client, path: str, body: object) -> dict[str, Any]:
    reply = client.send_until_clear("POST", path, body, timeout_s=CLEAR_S)
    if reply.status not in (200, 201):
        raise RuntimeError(f"POST {path}: {reply.status} {reply.content}")
    return reply.content


def _send_large(client: Client, stop: threading.Event) -> None:
    """Create batches of one large member until `stop`; what waits is limited, so that some get 429."""
    body = {"queue": LARGE_QUEUE, "jobs": [{"data": "x" * LARGE_BYTES}], "close": True}
    while not stop.wait(1):
        client.send("POST", "/batches", body)
