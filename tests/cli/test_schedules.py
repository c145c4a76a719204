"""Schedules are created, applied, paused, triggered and deleted on the real application."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from django.core.handlers.wsgi import WSGIHandler
from typer.testing import Result

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.errors import ExitCode
from schedules.models import Fire
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

Run = Callable[..., Result]


@pytest.fixture
def admin(run: Run, configuration: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    transport = httpx2.WSGITransport(app=WSGIHandler())
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, transport))
    monkeypatch.setenv("RUNQY_API_KEY", ADMIN_KEY)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    return run


def test_schedules_from_creation_to_deletion(admin: Run, tmp_path: Path) -> None:
    path = tmp_path / "schedules.yaml"
    path.write_text("schedules:\n  poll: {queue: mail, every: 15m}\n")
    create = ("schedule", "create", "nightly", "-q", "mail", "--cron", "30 2 * * mon", "-p", '{"n": 1}')

    done = [
        admin(*create, "--option", "max_retry=0", "--option", "timeout=90s"),
        admin("queue", "apply", "-f", str(path)),
        admin("schedule", "list", "-o", "name"),
        admin("schedule", "pause", "nightly", "--reason", "holiday"),
        admin("schedule", "show", "nightly", "-o", "json"),
        admin("schedule", "trigger", "nightly", "-o", "json"),
        admin("schedule", "fires", "nightly", "-o", "json"),
        admin("schedule", "unpause", "nightly"),
        admin("schedule", "delete", "poll", "--force"),
        admin("schedule", "list", "-o", "name"),
    ]

    assert [result.exit_code for result in done] == [0] * len(done), [result.output for result in done]
    texts = [result.stdout for result in done]
    shown, fire, fires = (json.loads(texts[index]) for index in (4, 5, 6))
    assert (texts[2].split(), texts[-1].split()) == (["nightly", "poll"], ["nightly"])
    assert (shown["cron"], shown["options"]) == ("30 2 * * MON", {"max_retry": 0, "timeout": "90s"})
    assert (shown["state"], shown["paused_reason"]) == ("paused", "holiday")
    assert [each["task_id"] for each in fires] == [fire["task_id"]]
    assert (fire["state"], fire["task_state"]) == ("enqueued", "pending")


def test_durations_creators_and_fires_without_a_task_are_shown_as_a_person_reads_them(admin: Run) -> None:
    admin("schedule", "create", "hourly", "-q", "mail", "--every", "1h", "--jitter", "90s")
    triggered = [json.loads(admin("schedule", "trigger", "hourly", "-o", "json").stdout) for _ in range(2)]
    Fire.objects.filter(task_id=triggered[1]["task_id"]).update(state=Fire.State.SKIPPED)

    lines = [line.split("\t") for line in admin("schedule", "show", "hourly").stdout.splitlines()]
    shown = {line[0]: line[1] for line in lines}
    listed, fires = admin("schedule", "list").stdout, admin("schedule", "fires", "hourly").stdout

    assert (shown["every"], shown["jitter"], shown["next"][:1]) == ("1h", "1m30s", "2")
    assert not any(value.startswith(("[", '{"kind')) for value in shown.values()), shown
    assert "every 1h" in listed
    assert triggered[0]["task_id"] in fires
    assert triggered[1]["task_id"] not in fires
    assert [line[3] for line in lines if line[0] == "fire"] == ["", triggered[0]["task_id"]]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("create", "a", "-q", "mail"), ExitCode.FAILED, "One of cron and every is required."),
        (("create", "a", "-q", "mail", "--every", "1m", "-p", "{"), ExitCode.USAGE, "--payload: Must be JSON"),
        (("create", "a", "-q", "mail", "--every", "1m", "--option", "x"), ExitCode.USAGE, "Must be NAME=VALUE."),
        (("show", "nothing"), ExitCode.NOT_FOUND, "No schedule 'nothing'."),
    ],
)
def test_wrong_commands_say_what_to_do(admin: Run, arguments: tuple[str, ...], status: int, message: str) -> None:
    result = admin("schedule", *arguments)

    assert (result.exit_code, message in result.output) == (status, True), result.output
