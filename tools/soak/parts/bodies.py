"""Payloads of 30 MB beside small ones: no small request fails or waits long, and what is refused did not run."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Reply
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
    small: list[Reply] = []
    is_over = threading.Event()

    def send_small() -> None:
        client = stack.client(timeout_s=TIMEOUT_S)
        while not is_over.is_set():
            small.append(client.send("POST", "/queue/add", {"queue": QUEUE, "data": {}}))
        client.close()

    def send_large(number: int) -> Reply:
        client = stack.client(timeout_s=TIMEOUT_S)
        reply = client.send(method, path(number), body)
        client.close()
        return reply

    threads = [threading.Thread(target=send_small) for _ in range(SMALL_CLIENTS)]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(LARGE_CLIENTS) as pool:
        large = list(pool.map(send_large, range(ROUNDS * LARGE_CLIENTS)))
    is_over.set()
    for thread in threads:
        thread.join()
    answers = {"200", "503 server_busy"} if body else {"200"}
    for size, replies, expected in (("large", large, answers), ("small", small, {"200"})):
        found = Counter(f"{reply.status} {reply.content.get('code', '')}".strip() for reply in replies)
        report.figure(PART, f"responses to {size} requests ({method})", f"{dict(found)}", passed={*found} <= expected)
    times_s = sorted(reply.took_s for reply in small)
    report.figure(PART, f"small requests beside large ones ({method})", percentiles(times_s))
    report.require(PART, f"99th percentile ({method})", times_s[len(times_s) * 99 // 100], at_most=P99_S)
    return large


def _count_large(redis: redis_py.Redis) -> int:
    found: Any = redis.scan_iter(f"{QueueKeys(QUEUE).task_prefix}*", count=1000)
    return sum(redis.hstrlen(key, "msg") >= BYTES for key in found)
