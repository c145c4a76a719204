"""Clients that create, read and cancel tasks continuously, and record what the server promised them."""

import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from tools.soak.api import Client, idempotency_key
from tools.soak.checker import ENDED, Accepted
from tools.soak.stack import Stack
from tools.soak.threads import BackgroundThreads

KINDS = {
    "ok": 24, "slow": 20, "flaky": 8, "retry": 2, "fail": 5, "timeout": 2, "crash": 1, "delayed": 6, "unique": 12,
    "batch": 6, "once": 3, "unrepeated": 5,
}  # fmt: skip
"""The requests of clients, and how many of 94 are of each kind."""
PAYLOADS: dict[str, dict[str, Any]] = {
    "slow": {"do": "ok", "s": 1.5},
    "flaky": {"do": "flaky", "failures": 1},
    "retry": {"do": "retry"},
    "fail": {"do": "fail"},
    "timeout": {"do": "ok", "s": 30},
    "crash": {"do": "crash"},
}
OPTIONS: dict[str, dict[str, Any]] = {"timeout": {"timeout": 2, "max_retry": 1}, "delayed": {"delay": 3}}
UNIQUE_KEYS = 8
PATIENCE_S = 60.0
"""How long a client repeats a request whose outcome it does not know. Then the outcome stays unknown."""


class Load(BackgroundThreads):
    """Threads with clients, and what these saw."""

    def __init__(
        self,
        stack: Stack,
        rng: random.Random,
        *,
        kinds: Mapping[str, int] = KINDS,
        producers: int = 4,
        pause_s: float = 0.3,
        tenants: Mapping[str, str] | None = None,
        cancels: bool = True,
    ) -> None:
        """`tenants` are queues and the keys of their clients, in place of the stack's queues and key."""
        super().__init__(patience_s=PATIENCE_S + 30)
        self.accepted: dict[str, Accepted] = {}
        self.canceled: set[str] = set()
        # Numbers of tasks of which the server said that they were not stored.
        self.denied: set[str] = set()
        self.first_ends: dict[str, tuple[str, str]] = {}
        # Unix s at which each end was seen.
        self.seen_at: dict[str, float] = {}
        # Requests that were not done, by status and code.
        self.refusals: Counter[str] = Counter()
        # Unix s at which each was accepted.
        self.accepted_at: dict[str, float] = {}
        self._stack = stack
        self._kinds = dict(kinds)
        self._pause_s = pause_s
        self._recent: deque[str] = deque(maxlen=400)
        for act in (self._read, self._cancel) if cancels else (self._read,):
            self.add_thread(act, random.Random(rng.random()))
        clients = itertools.cycle((tenants or {"": stack.key}).items())
        for queue, key in itertools.islice(clients, producers):
            self.add_thread(self._produce, random.Random(rng.random()), queue, key)

    def create(
        self, client: Client, kind: str, *, queue: str = "", jobs: int = 0, patience_s: float = PATIENCE_S
    ) -> list[str]:
        """Request a task or a batch until the outcome is clear; return the ids of accepted tasks."""
        key = idempotency_key()
        payload = {"do": "ok"} | PAYLOADS.get(kind, {}) | {"number": key}
        body: dict[str, Any] = {"queue": queue or "canary", **OPTIONS.get(kind, {})}
        if kind == "unique":
            body |= {"unique_key": f"unique-{int(key, 16) % UNIQUE_KEYS}"}
        if jobs:
            body["jobs"] = [payload | {"number": f"{key}-{index}"} for index in range(jobs)]
        else:
            body["data"] = payload
        headers = {} if kind == "unrepeated" else {"Idempotency-Key": key}
        path = "/queue/add-batch" if jobs else "/queue/add"
        timeout_s = 0 if kind == "unrepeated" else patience_s
        reply = client.send_until_clear("POST", path, body, headers=headers, timeout_s=timeout_s)
        if reply.status != 200:
            code = reply.content.get("code", "")
            self.refusals[f"{reply.status} {code}".strip()] += 1
            if kind == "unrepeated" and code and code != "outcome_unknown":
                self.denied.add(key)
            return []
        ids = [task_id for task_id in reply.content["task_ids"] if task_id] if jobs else [reply.content["info"]["id"]]
        for task_id in ids:
            self.record_accepted(task_id, kind)
            self._recent.append(task_id)
        return ids

    def record_accepted(self, task_id: str, kind: str) -> None:
        self.accepted_at[task_id] = time.time()
        self.accepted[task_id] = Accepted(task_id=task_id, kind=kind)

    def _produce(self, rng: random.Random, tenant: str, key: str) -> None:
        client = self._stack.client(key=key)
        while self.waits(rng.random() * 2 * self._pause_s):
            (kind,) = rng.choices(list(self._kinds), list(self._kinds.values()))
            queue = tenant or ("once" if kind == "once" else rng.choice(("steady.high", "steady_low")))
            self.create(client, kind, queue=queue, jobs=rng.randrange(2, 20) if kind == "batch" else 0)
        client.close()

    def _read(self, rng: random.Random) -> None:
        """Record the first final state that a client sees of a task, which must not change."""
        client = self._stack.client()
        while self.waits(0.1):
            if not self._recent:
                continue
            task_id = rng.choice(tuple(self._recent))
            info = client.send("GET", f"/queue/{task_id}").content.get("info")
            if info is not None and info["state"] in ENDED and task_id not in self.first_ends:
                result = info.get("result")
                self.seen_at[task_id] = time.time()
                self.first_ends[task_id] = info["state"], result["run"] if isinstance(result, dict) else ""
        client.close()

    def _cancel(self, rng: random.Random) -> None:
        client = self._stack.client()
        while self.waits(1 + rng.random() * 2):
            if self._recent:
                task_id = rng.choice(tuple(self._recent)[-20:])
                reply = client.send("DELETE", f"/api/cli/tasks/{task_id}")
                if reply.status in (200, 202) or reply.is_unclear:
                    self.canceled.add(task_id)
        client.close()
