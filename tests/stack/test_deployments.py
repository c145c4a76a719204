"""What a start reports about its queues while they get ready."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat, write_refusal
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.core.environment.connection_urls import parse_redis_url
from runqy.stack.deployments import DeploymentMonitor
from tests.support import environment

VAULT_MISSING = "The vault 'keys' does not exist."


@dataclass(kw_only=True)
class Start:
    """A start whose worker the test plays, and what it reports."""

    monitor: DeploymentMonitor
    broker: Broker
    lines: list[str]
    waited_s: list[float] = field(default_factory=lambda: [0.0])

    def beat(self, queue: str, state: WorkerState, reason: str = "", worker_id: str = "") -> None:
        """Write the heartbeat of a queue's worker."""
        record = WorkerRecord(
            worker_id=worker_id or queue,
            host="h",
            pid=1,
            server_id=queue,
            queue=queue,
            redis_queues={queue: 1},
            state=state,
            reason=reason,
            started_at_s=self.broker.now_s() + 1,
        )
        self.broker.run(write_heartbeat(record, now_ns=self.broker.now_ns()))

    def refuse(self, queue: str) -> None:
        """Refuse the registration of a queue's worker, as the server does."""
        self.broker.run(write_refusal(self.broker, f"refused-{queue}", queue=queue, reason=VAULT_MISSING))


@pytest.fixture
def start(redis: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return the start of two queues; its clock is the test's."""
    lines, waited_s = [], [0.0]
    began_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: began_s + waited_s[0])
    target = parse_redis_url(environment.SERVER.url)
    monitor, broker = DeploymentMonitor(target, ("mail", "video"), lines.append), Broker(target)
    yield Start(monitor=monitor, broker=broker, lines=lines, waited_s=waited_s)
    monitor.close()
    broker.close()


def test_a_refused_registration_is_reported_at_once_and_once(start: Start) -> None:
    start.refuse("mail")

    start.monitor.are_settled()
    start.refuse("mail")
    start.monitor.are_settled()

    assert start.lines == [f"  mail: not registered: {VAULT_MISSING}"]


def test_a_start_does_not_wait_for_a_queue_that_is_refused(start: Start) -> None:
    start.beat("video", WorkerState.READY)
    assert not start.monitor.are_settled()

    start.refuse("mail")

    assert start.monitor.are_settled()


def test_a_queue_that_is_registered_after_all_is_not_refused(start: Start) -> None:
    start.refuse("mail")
    start.monitor.are_settled()
    start.beat("mail", WorkerState.DEPLOYING, worker_id="refused-mail")

    start.monitor.are_settled()
    start.refuse("mail")
    start.monitor.are_settled()

    assert start.lines[1:] == ["  mail: deploying"]


def test_a_failed_start_is_reported_with_its_reason(start: Start) -> None:
    reason = "git: fatal: no repository\nfatal: Could not read from remote repository.\n\nand the repository exists."
    start.beat("mail", WorkerState.START_FAILED, reason)
    start.beat("video", WorkerState.START_FAILED, "ended with exit code 1\nTraceback:\nModuleNotFoundError: torch")

    start.monitor.are_settled()

    assert start.lines == [
        "  mail: start failed: git: fatal: no repository",
        "  video: start failed: ModuleNotFoundError: torch",
    ]


def test_progress_is_reported_while_queues_get_ready(start: Start) -> None:
    start.beat("mail", WorkerState.DEPLOYING)
    start.beat("video", WorkerState.READY)

    for waited_s in (0.0, 9.0, 10.0, 11.0, 21.0):
        start.waited_s[0] = waited_s
        start.monitor.are_settled()

    assert start.lines[2:] == [
        "  after 10 s still waiting for mail (deploying)",
        "  after 21 s still waiting for mail (deploying)",
    ]
