"""What a start reports about its queues while they get ready."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.connection_urls import parse_redis_url
from runqy.supervisor.deployments import DeploymentMonitor, WorkerLog
from tests.support import environment

VAULT_MISSING = "The server responded 503: The vault 'keys' does not exist."


@dataclass(kw_only=True)
class Start:
    """A start whose worker the test plays, and what it reports."""

    monitor: DeploymentMonitor
    broker: Broker
    log: Path
    lines: list[str]
    waited_s: list[float] = field(default_factory=lambda: [0.0])

    def beat(self, queue: str, state: WorkerState, reason: str = "") -> None:
        """Write the heartbeat of a queue's worker."""
        record = WorkerRecord(
            worker_id=queue,
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

    def write_log(self, *entries: dict[str, object]) -> None:
        """Add entries to the worker's log."""
        with self.log.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture
def start(redis: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return the start of two queues; its clock is the test's."""
    log, lines, waited_s = tmp_path / "worker.log", [], [0.0]
    log.write_text(json.dumps({"event": "not_registered", "queue": "mail", "reason": "of the last start"}) + "\n")
    began_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: began_s + waited_s[0])
    target = parse_redis_url(environment.SERVER.url)
    monitor, broker = DeploymentMonitor(target, ("mail", "video"), lines.append, log), Broker.connect(target)
    yield Start(monitor=monitor, broker=broker, log=log, lines=lines, waited_s=waited_s)
    monitor.close()
    broker.close()


def test_a_refused_registration_is_reported_at_once_and_once(start: Start) -> None:
    entry = {"event": "not_registered", "queue": "mail", "reason": VAULT_MISSING}
    start.write_log({"event": "registered", "queue": "video"}, entry)

    start.monitor.are_settled()
    start.write_log(entry)
    start.monitor.are_settled()

    assert start.lines == [f"  mail: not registered: {VAULT_MISSING}"]
    assert start.monitor.refusals == {"mail": VAULT_MISSING}


def test_a_start_does_not_wait_for_a_queue_that_is_refused(start: Start) -> None:
    start.beat("video", WorkerState.READY)
    start.write_log({"event": "not_registered", "queue": "mail", "reason": VAULT_MISSING})
    assert not start.monitor.are_settled()

    start.waited_s[0] = 6

    assert start.monitor.are_settled()


def test_a_queue_that_is_registered_after_all_is_not_refused(start: Start) -> None:
    start.write_log({"event": "not_registered", "queue": "mail", "reason": VAULT_MISSING})
    start.monitor.are_settled()
    start.beat("mail", WorkerState.DEPLOYING)

    start.monitor.are_settled()

    assert start.lines[1:] == ["  mail: deploying"]
    assert start.monitor.refusals == {}


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


def test_half_a_line_of_the_log_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    log = WorkerLog(path)
    line = json.dumps({"event": "worker_ends", "queue": "mail", "reason": "The server has no queue 'mail'."})
    path.write_text(f"not json\n{line[:20]}")
    assert list(log.read_refusals()) == []

    path.write_text(f"not json\n{line}\n")

    assert list(log.read_refusals()) == [("mail", "The server has no queue 'mail'.")]
