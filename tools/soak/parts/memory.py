"""Redis without memory: only the queue that fills it is refused; a full Redis is reported and drained."""

import threading
import time
from collections import Counter

import redis as redis_py

from tests.support.full_redis import filled_redis
from tools.soak.api import Client
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report, percentiles
from tools.soak.stack import QUEUE_FILE, Stack, StackParts, running_stack

PART = "memory"
MIB = 1 << 20
LIMIT = 1024 * MIB
# fsync only every second, so that the disk does not limit how fast Redis is filled.
FAST = ("--appendonly", "yes", "--appendfsync", "everysec")
REFUSALS = 20
FLOOD_S = 180.0
"""The longest time until REFUSALS tasks are refused."""
FLOODING_CLIENTS = 3
OTHERS = tuple(f"other{number}" for number in range(5))
OTHER_PAUSE_S = 0.1
NOTICED_S = 30.0  # alerts are evaluated every 10 s
AGAIN_S = 5.0


def run(options: Options, report: Report) -> None:
    """Flood one queue, then fill Redis by other keys."""
    queues = "".join(f"  {name}: {{{{priority: 1, deployment: {{deployment}}}}}}\n" for name in ("flooded", *OTHERS))
    with (
        running_stack(report, options.rng(PART), StackParts(has_networks=False, redis_options=FAST)) as stack,
        stack.redis_client() as redis,
    ):
        stack.write_queue_file(QUEUE_FILE + queues)
        client = stack.client(timeout_s=60)
        client.post("/api/cli/configs/reload")
        report.section(f"A queue that floods a Redis of {LIMIT // MIB:,} MiB with tasks of 8 and 30 MB")
        redis.config_set("maxmemory", LIMIT)
        _flood(stack, report)
        client.send("DELETE", "/api/cli/configs/flooded?force=true")
        report.section("A full Redis")
        _fill(client, redis, report)
        client.close()


def _flood(stack: Stack, report: Report) -> None:
    until_s = time.monotonic() + FLOOD_S
    flood: Counter[str] = Counter()
    others: Counter[str] = Counter()
    times: list[float] = []

    def goes_on() -> bool:
        return flood["429 queue_memory"] < REFUSALS and time.monotonic() < until_s

    def send_large() -> None:
        client = stack.client(timeout_s=60)
        texts = ("x" * 8_000_000, "x" * 30_000_000)
        while goes_on():
            reply = client.send("POST", "/queue/add", {"queue": "flooded", "data": {"x": texts[flood.total() % 2]}})
            flood[_name(reply.status, reply.content)] += 1
        client.close()

    def send_small() -> None:
        client = stack.client()
        while goes_on():
            for queue in OTHERS:
                reply = client.send("POST", "/queue/add", {"queue": queue, "data": {}})
                others[_name(reply.status, reply.content)] += 1
                times.append(reply.took_s)
            time.sleep(OTHER_PAUSE_S)
        client.close()

    threads = [threading.Thread(target=send_large) for _ in range(FLOODING_CLIENTS)]
    threads.append(threading.Thread(target=send_small))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Until maintenance has measured the queue, which takes a second or two, large tasks get 503.
    answers = {"200", "429 queue_memory", "503 broker_full"}
    passed = flood["429 queue_memory"] >= REFUSALS and {*flood} <= answers
    report.figure(PART, "responses to the flood", _format(flood), passed=passed)
    report.figure(PART, "responses to five other queues", _format(others), passed={*others} == {"200"})
    report.figure(PART, "POST /queue/add of other queues", percentiles(times))


def _fill(client: Client, redis: redis_py.Redis, report: Report) -> None:
    """Fill Redis to 98 %, wait until the product reports it, then free it."""
    with filled_redis(redis, use=0.98):
        began_s = time.monotonic()
        wait_for(lambda: _add(client) == "503 broker_full", AGAIN_S, "enqueueing refuses tasks")
        wait_for(lambda: _writes(client) == "warning", AGAIN_S, "/readyz warns")
        wait_for(lambda: "redis_memory" in _alerts(client), NOTICED_S, "an alert is open")
        report.figure(PART, "an alert is open", f"after {time.monotonic() - began_s:.1f} s")
    began_s = time.monotonic()
    wait_for(lambda: _add(client) == "200", AGAIN_S, "tasks are accepted again")
    report.figure(PART, "tasks are accepted again", f"after {time.monotonic() - began_s:.1f} s")


def _add(client: Client) -> str:
    reply = client.send("POST", "/queue/add", {"queue": OTHERS[0], "data": {}})
    return _name(reply.status, reply.content)


def _writes(client: Client) -> str:
    checks = client.send("GET", "/readyz?verbose").content.get("checks", ())
    return next((check["status"] for check in checks if check["check"] == "redis_writes"), "")


def _alerts(client: Client) -> list[str]:
    return [alert["kind"] for alert in client.get("/api/alerts")["alerts"]]


def _name(status: int, content: dict[str, object]) -> str:
    return f"{status} {content.get('code', '')}".strip()


def _format(replies: Counter[str]) -> str:
    return ", ".join(f"{count:,} times {name}" for name, count in sorted(replies.items()))
