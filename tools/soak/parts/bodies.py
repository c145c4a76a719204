"""Payloads of 30 MB beside small ones: no small request fails or waits long, and what is refused did not run."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Client, Reply
from tools.soak.options import Options
from tools.soak.report import Report, percentiles
from tools.soak.stack import Stack, StackParts, running_stack

PART = "bodies"
QUEUE = "steady_high"
BYTES, LARGE_CLIENTS, SMALL_CLIENTS, ROUNDS = 30_000_000, 16, 4, 3
# As in the documented set-up. With `always` the disk decides how long Redis does not reply.
EVERY_SECOND = ("--appendonly", "yes", "--appendfsync", "everysec")
P99_S = 0.5
TIMEOUT_S = 150.0


def run(options: Options, report: Report) -> None:
    """Enqueue, then read, many large payloads at once while other clients enqueue small ones."""
    with (
        running_stack(report, options.rng(PART), StackParts(has_networks=False, redis_options=EVERY_SECOND)) as stack,
        stack.redis_client() as redis,
    ):
        report.section(f"{LARGE_CLIENTS} clients with payloads of {BYTES // 1_000_000} MB beside small ones")
        body = {"queue": QUEUE, "data": {"x": "x" * BYTES}}
        replies = _send_beside_small(stack, report, "POST", lambda _: "/queue/add", body)
        accepted = [reply.content["info"]["id"] for reply in replies if reply.status == 200]
        stored = _count_large(redis)
        passed = stored == len(accepted) > 0
        report.figure(PART, "large tasks stored", f"{stored}, of which {len(accepted)} were accepted", passed=passed)
        _send_beside_small(stack, report, "GET", lambda number: f"/queue/{accepted[number % len(accepted)]}")


def _send_beside_small(
    stack: Stack, report: Report, method: str, path: Callable[[int], str], body: object = None
) -> list[Reply]:
    # In a process of their own: one that encodes and sends megabytes would make its other requests wait.
    processes = get_context("spawn")
    is_over, sent = processes.Event(), processes.SimpleQueue()
    sending = processes.Process(target=_send_small, args=(stack.port, stack.key, is_over, sent))
    sending.start()
    sent.get()  # it sends now

    def send_large(number: int) -> Reply:
        client = stack.client(timeout_s=TIMEOUT_S)
        reply = client.send(method, path(number), body)
        client.close()
        return reply

    with ThreadPoolExecutor(LARGE_CLIENTS) as pool:
        large = list(pool.map(send_large, range(ROUNDS * LARGE_CLIENTS)))
    is_over.set()
    small: list[Reply] = sent.get()
    sending.join()
    answers = {"200", "503 server_busy"} if body else {"200"}
    for size, replies, expected in (("large", large, answers), ("small", small, {"200"})):
        found = Counter(f"{reply.status} {reply.content.get('code', '')}".strip() for reply in replies)
        report.figure(PART, f"responses to {size} requests ({method})", f"{dict(found)}", passed={*found} <= expected)
    times_s = sorted(reply.took_s for reply in small)
    report.figure(PART, f"small requests beside large ones ({method})", percentiles(times_s))
    report.require(PART, f"99th percentile ({method})", times_s[len(times_s) * 99 // 100], at_most=P99_S)
    return large


def _send_small(port: int, key: str, is_over: Event, sent: "SimpleQueue[Any]") -> None:
    """Send small requests by some clients until it is over; then pass their replies on."""

    def send(_: int) -> list[Reply]:
        client, replies = Client(port, key, timeout_s=TIMEOUT_S), list[Reply]()
        while not is_over.is_set():
            replies.append(client.send("POST", "/queue/add", {"queue": QUEUE, "data": {}}))
        client.close()
        return replies

    sent.put(None)
    with ThreadPoolExecutor(SMALL_CLIENTS) as pool:
        sent.put([reply for replies in pool.map(send, range(SMALL_CLIENTS)) for reply in replies])


def _count_large(redis: redis_py.Redis) -> int:
    found: Any = redis.scan_iter(f"{QueueKeys(QUEUE).task_prefix}*", count=1000)
    return sum(redis.hstrlen(key, "msg") >= BYTES for key in found)
