"""Clients that enqueue batches at a given rate and record which tasks were accepted. A few of the tasks fail."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Client, idempotency_key
from tools.soak.stack import Stack
from tools.soak.threads import BackgroundThreads

BATCH = 50
PATIENCE_S = 120.0
"""How long a client repeats a request whose outcome it does not know."""
MAX_DEBT_S = 2.0
"""A client catches up with at most this time in which it could not send."""
MAX_BACKLOG_S = 10.0
"""Clients pause while more tasks wait than workers should run in this time: the machine does not reach the rate."""
LOOK_S = 0.5


class SteadyLoad(BackgroundThreads):
    """Threads that enqueue `rate` tasks a second, distributed over queues by their shares."""

    def __init__(
        self, stack: Stack, shares: Mapping[str, float], *, rate: float, failing: float = 0.02, clients: int = 2
    ) -> None:
        super().__init__(patience_s=PATIENCE_S + 30)
        self.accepted: dict[str, set[str]] = {queue: set() for queue in shares}
        # Queue and id of tasks that fail.
        self.failing: list[tuple[str, str]] = []
        self.refusals: Counter[str] = Counter()
        # How long clients waited for workers, all together.
        self.paused_s = 0.0
        self._stack = stack
        self._shares = dict(shares)
        self._rate = rate
        self._failing = failing
        self._order_ids = itertools.count()
        self._backlog = 0
        for number in range(clients):
            self.add_thread(self._send_batches, clients, number)
        self.add_thread(self._watch_backlog)

    @property
    def accepted_count(self) -> int:
        return sum(map(len, self.accepted.values()))

    def make_job(self) -> dict[str, Any]:
        """Return the payload of the next task. Half of those that fail succeed when they run again."""
        number = next(self._order_ids)
        every = round(2 / self._failing) if self._failing else 0
        do = "ok"
        if every and number % every == every // 2:
            do = "fail"
        elif every and number % every == every - 1:
            do = "flaky"
        return {"do": do, "order_id": f"ORD-{number:08}", "customer": number % 997, "note": "leave it at the back door"}

    def record(self, queue: str, task_ids: Sequence[str], jobs: Sequence[Mapping[str, Any]]) -> None:
        self.accepted[queue].update(task_ids)
        self.failing += [(queue, task_id) for task_id, job in zip(task_ids, jobs, strict=True) if job["do"] == "fail"]

    def _send_batches(self, clients: int, number: int) -> None:
        client = self._stack.client(timeout_s=15)
        interval_s = BATCH * clients / self._rate
        due_s = time.monotonic() + interval_s * number / clients
        credits = dict.fromkeys(self._shares, 0.0)
        while self.waits(due_s - time.monotonic()):
            due_s = max(due_s + interval_s, time.monotonic() - MAX_DEBT_S)
            while self._backlog > MAX_BACKLOG_S * self._rate and self.waits(LOOK_S):
                self.paused_s += LOOK_S / clients
                due_s = time.monotonic()
            for queue, share in self._shares.items():
                credits[queue] += share
            queue = max(credits, key=credits.__getitem__)
            credits[queue] -= sum(self._shares.values())
            self._send_batch(client, queue)
        client.close()

    def _send_batch(self, client: Client, queue: str) -> None:
        jobs = [self.make_job() for _ in range(BATCH)]
        body = {"queue": queue, "jobs": jobs}
        headers = {"Idempotency-Key": idempotency_key()}
        reply = client.send_until_clear("POST", "/queue/add-batch", body, headers=headers, timeout_s=PATIENCE_S)
        if reply.status != 200:
            self.refusals[f"{reply.status} {json.dumps(reply.content)[:200]}"] += 1
            return
        self.record(queue, reply.content["task_ids"], jobs)

    def _watch_backlog(self) -> None:
        with self._stack.redis_client() as redis:
            while self.waits(LOOK_S):
                try:
                    self._backlog = sum(redis.llen(QueueKeys(queue).pending) for queue in self._shares)
                except redis_py.RedisError:
                    continue
