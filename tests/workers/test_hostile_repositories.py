"""Repositories made to exhaust a worker: their own queue gets the reason; other queues are not affected."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerRecord
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.repositories import Repository

SILENCE_MAX_S = 30.0
"""Far beyond what a busy machine delays a heartbeat by, and far below what these repositories could take."""


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Return the queues with such a repository: its URL, and the reason that their workers report."""
    long_line = Repository(tmp_path / "long")
    long_line.commit({"main.py": "", "requirements.txt": "a." * (1 << 20)})
    lines = Repository(tmp_path / "lines")
    lines.commit({"main.py": "", "requirements.txt": ("a." * 30_000 + "\n") * 60})
    huge = Repository(tmp_path / "huge")
    huge.commit({"main.py": "", "requirements.txt": "\n" * (64 << 20)})
    includes = Repository(tmp_path / "includes")
    for name in ("a", "b"):
        (includes.folder / name).symlink_to(".")
    includes.commit({"main.py": "", "requirements.txt": "-r a/requirements.txt\n-r b/requirements.txt\n"})
    return {
        "long": (long_line.url, "requirements.txt has a line of more than 64 KiB"),
        "lines": (lines.url, "uv pip failed"),
        "huge": (huge.url, "requirements.txt and the files that it includes have more than 4 MiB"),
        "includes": (includes.url, "requirements.txt includes more than 100 files"),
    }


@pytest.fixture
def by_queue(server: FakeServer, hostile: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server deploy the hostile repositories for their queues."""
    plain = server.accepted

    def accepted(body: dict[str, Any]) -> dict[str, Any]:
        response, queue = plain(body), body["queue"]
        response["queue"]["name"] = queue
        if queue in hostile:
            response["deployment"]["git_url"] = hostile[queue][0]
        return response | {"sub_queues": [{"name": queue, "priority": 1}]}

    monkeypatch.setattr(server, "accepted", accepted)


@pytest.mark.usefixtures("by_queue")
def test_no_content_of_a_repository_delays_another_queues_heartbeat(
    single_broker: Broker, start_worker: StartWorker, hostile: dict[str, tuple[str, str]]
) -> None:
    start_worker(RUNQY_QUEUES=",".join(["mail", *hostile]))
    beats: list[float] = []

    def records() -> dict[str, WorkerRecord]:
        found = {record.queue: record for record in list_worker_records(single_broker)}
        if "mail" in found and (not beats or found["mail"].last_beat_s > beats[-1]):
            beats.append(found["mail"].last_beat_s)
        return found

    found = eventually(
        lambda: (
            (seen := records()).keys() >= hostile.keys()
            and all(seen[queue].reason for queue in hostile)
            and len(beats) > 1
            and seen
        ),
        what=records,
    )

    for queue, (_, reason) in hostile.items():
        assert reason in found[queue].reason, queue
    assert found["mail"].state == "ready"
    assert max(after - before for before, after in pairwise(beats)) < SILENCE_MAX_S
