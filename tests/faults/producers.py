"""Clients that send requests to a server throughout a test, and record the outcome of each."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.support.environment import ADMIN_KEY
from tests.support.waiting import PATIENCE_S, wait_until

QUEUE = "simple"
TASK = json.dumps({"queue": QUEUE, "data": {"n": 1}}).encode()
BATCH_SIZE = 3
BATCH = json.dumps({"queue": QUEUE, "jobs": [{"data": {"n": n}} for n in range(BATCH_SIZE)]}).encode()

UNAVAILABLE = {(503, "broker_unavailable"), (503, "outcome_unknown")}
Send = tuple[str, str, bytes]
"""Method, path and body."""
ENQUEUE: Send = ("POST", "/queue/add", TASK)
ENQUEUE_BATCH: Send = ("POST", "/queue/add-batch", BATCH)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, or that the connection ended without one (status 0)."""

    status: int
    took_s: float
    headers: dict[str, str]
    content: dict[str, Any]

    @property
    def code(self) -> str:
        """Return the code of the problem that it is; empty: none."""
        return str(self.content.get("code", ""))

    @property
    def ids(self) -> list[str]:
        """Return the ids of the tasks that the server reported as enqueued."""
        if self.status != 200:
            return []
        if "task_ids" in self.content:
            return [task_id for task_id in self.content["task_ids"] if task_id]
        return [self.content["info"]["id"]]


class KeptConnection:
    """A client's connection to a server, opened again when it was lost."""

    def __init__(self, port: int, *, timeout_s: float = 30) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """Send a request and return the response."""
        began_s = time.monotonic()
        try:
            self._http.request(method, path, body or None, {"Authorization": f"Bearer {ADMIN_KEY}"} | headers)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            self._http.close()
            return Reply(0, time.monotonic() - began_s, {}, {})
        found = {name.lower(): value for name, value in response.getheaders()}
        is_json = "json" in found.get("content-type", "")
        return Reply(response.status, time.monotonic() - began_s, found, json.loads(content) if is_json else {})

    def send_until_available(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """Send a request whose Redis works, again while a busy machine delays that for longer than a server waits.

        Return the last response, with the time that all took.
        """
        replies: list[Reply] = []

        def is_available() -> bool:
            replies.append(self.send(method, path, body, **headers))
            return (replies[-1].status, replies[-1].code) not in UNAVAILABLE

        began_s = time.monotonic()
        wait_until(is_available)
        return replace(replies[-1], took_s=time.monotonic() - began_s)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class Producers:
    """Threads that send requests one after another."""

    def __init__(self, port: int, sends: Sequence[Send]) -> None:
        self.replies: list[Reply] = []
        self._port = port
        self._may_end = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(send,)) for send in sends]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait for the last responses."""
        self._may_end.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def wait_for(self, is_wanted: Callable[[Reply], bool], count: int = 1, *, timeout_s: float = PATIENCE_S) -> float:
        """Return after how many seconds so many more replies were as wanted."""
        before, began_s = len(self.replies), time.monotonic()
        wait_until(lambda: sum(map(is_wanted, self.replies[before:])) >= count, timeout_s)
        return time.monotonic() - began_s

    @property
    def ids(self) -> list[str]:
        """Return the ids of all tasks that were accepted."""
        return [task_id for reply in self.replies for task_id in reply.ids]

    def outcomes(self) -> Counter[tuple[int, str]]:
        """Return how often there was which status and code."""
        return Counter((reply.status, reply.code) for reply in self.replies)

    def _produce(self, send: Send) -> None:
        connection = KeptConnection(self._port)
        while not self._may_end.is_set():
            reply = connection.send(*send)
            self.replies.append(reply)
            if reply.status != 200:
                self._may_end.wait(0.02)  # a client that is refused does not come back at once
        connection.close()


@contextmanager
def producing(port: int, *sends: Send) -> Iterator[Producers]:
    """Send requests, each kind on a thread of its own, until the block ends."""
    producers = Producers(port, sends)
    producers.start()
    try:
        yield producers
    finally:
        producers.stop()


def is_accepted(reply: Reply) -> bool:
    """Return whether a request was done."""
    return reply.status == 200


def is_refused(reply: Reply) -> bool:
    """Return whether the server responded that it is temporarily unavailable."""
    return reply.status == 503
