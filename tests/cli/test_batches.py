"""Batches are created, added to, closed and cancelled on the real application."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from django.core.handlers.wsgi import WSGIHandler
from typer.testing import Result

from batches import operations
from batches.models import Batch, Member, WaitingMembers
from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.cli import line_sending, targets
from runqy.cli.client import Client
from runqy.cli.errors import ExitCode, ServerError
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


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "jobs.ndjson"
    path.write_text('{"n": 1}\n{"n": 2}\n\n{"data": {"n": 3}, "task_id": "x"}\n')
    return str(path)


def test_a_batch_from_creation_to_cancellation(admin: Run, file: str) -> None:
    created = admin("batch", "create", file, "-q", "mail", "--name", "letters", "--callback", "mail")
    batch_id = Batch.objects.get().pk
    done = [
        created,
        admin("batch", "add", batch_id, file, "-q", "mail"),
        admin("batch", "list", "-o", "json"),
        admin("batch", "members", batch_id, "--state", "waiting", "-o", "name"),
        admin("batch", "close", batch_id),
        admin("batch", "cancel", batch_id, "--force"),
        admin("batch", "show", batch_id, "-o", "json"),
    ]

    # A line of the file is refused twice.
    assert [result.exit_code for result in done] == [1, 1, 0, 0, 0, 0, 0], [result.output for result in done]
    assert f"{batch_id} created; members: 2, failed: 1" in created.stdout
    assert f"{file}:4: task_id:" in created.stderr
    (listed,) = json.loads(done[2].stdout)
    assert (listed["id"], listed["total"], listed["callback"]["state"]) == (batch_id, 4, "planned")
    assert len(done[3].stdout.split()) == 4
    shown = json.loads(done[6].stdout)
    assert (shown["closed"], shown["canceled"], "members" in shown) == (True, True, False)


def test_a_large_file_is_sent_in_parts(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sending, "PART", 1)
    Path(file).write_text('{"n": 1}\n{"n": 2}\n')

    result = admin("batch", "create", file, "-q", "mail", "--close")

    assert result.exit_code == 0, result.output
    assert (Member.objects.count(), Batch.objects.get().is_closed) == (2, True)


@pytest.fixture
def number_queue(admin: Run) -> None:
    """Let the queue accept numbers only."""
    schema = (PayloadField(name="n", type=(FieldType.INT,), required=True),)
    save_queue(spec=spec("mail", input=schema), source=QueueSource.API)


@pytest.mark.usefixtures("number_queue")
def test_parts_that_are_invalid_as_a_whole_are_left_out(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sending, "PART", 2)
    monkeypatch.setattr(line_sending, "_EXPLAINED_MAX", 1)
    Path(file).write_text('{"n": "a"}\n{"n": "b"}\n{"n": 1}\n{"n": "c"}\n{"n": "d"}\n{"n": "e"}\n{"n": 2}\n')

    created = admin("batch", "create", file, "-q", "mail", "--close")
    batch = Batch.objects.get()

    assert (created.exit_code, batch.total, batch.is_closed) == (ExitCode.FAILED, 2, True)
    assert f"{batch.pk} created; members: 2, failed: 5" in created.stdout
    assert [f"{file}:{number}: " in created.stderr for number in range(1, 8)] == [
        *(True, True, False),
        *(True, True, True, False),
    ]


@pytest.mark.usefixtures("number_queue")
def test_no_batch_is_left_if_no_line_is_valid(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sending, "PART", 1)
    Path(file).write_text('{"n": "a"}\n{"n": "b"}\n')

    result = admin("batch", "create", file, "-q", "mail")

    assert (result.exit_code, Batch.objects.exists()) == (ExitCode.FAILED, False)
    assert "no batch was created" in result.stderr


def test_a_batch_that_cannot_be_closed_is_named(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, body: object) -> None:
        raise ServerError(f"{path} cannot be reached", code="unreachable")

    monkeypatch.setattr(Client, "post", lambda _, path, body: fail(path, body))

    result = admin("batch", "create", file, "-q", "mail", "--close")

    assert result.exit_code == ExitCode.UNAVAILABLE
    assert f"Batch {Batch.objects.get().pk} is open" in result.stderr
    assert "Close it by `runqy batch close`." in result.stderr


def test_a_batch_that_cannot_be_filled_is_named(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sending, "PART", 1)
    monkeypatch.setattr(line_sending, "_PATIENCE_S", -1)
    Path(file).write_text('{"n": 1}\n{"n": 2}\n')

    monkeypatch.setattr(operations, "MAX_WAITING_MEMBERS", 2)
    result = admin("batch", "create", file, "-q", "mail")

    assert result.exit_code != 0
    assert f"Batch {Batch.objects.get().pk} is open, with the lines through 1 of {file}." in result.stderr


def test_a_full_server_is_waited_for(admin: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_sending, "PART", 1)
    Path(file).write_text('{"n": 1}\n{"n": 2}\n')
    monkeypatch.setattr("time.sleep", lambda _: WaitingMembers.objects.all().delete())

    monkeypatch.setattr(operations, "MAX_WAITING_MEMBERS", 2)
    result = admin("batch", "create", file, "-q", "mail")

    assert (result.exit_code, Batch.objects.get().total) == (0, 2)
    assert "at most 1 may. Trying again." in result.stderr


def test_lines_that_are_not_json_are_refused_with_their_numbers(admin: Run, file: str) -> None:
    Path(file).write_text('{"n": 1}\n\n{"n": \n')

    result = admin("batch", "create", file, "-q", "mail")

    assert (result.exit_code, Batch.objects.get().total) == (ExitCode.FAILED, 1)
    assert f"{file}:3: Not JSON" in result.stderr


def test_a_file_needs_a_queue(admin: Run, file: str) -> None:
    result = admin("batch", "create", file)

    assert result.exit_code == ExitCode.USAGE
    assert "--queue is required" in result.stderr


def test_a_batch_is_waited_for_and_watched(admin: Run, file: str) -> None:
    admin("batch", "create", file, "-q", "mail")
    batch = Batch.objects.get()
    late = admin("batch", "wait", batch.pk, "--timeout", "0")
    Batch.objects.update(is_closed=True, counts={"completed": 1, "archived": 1}, ended_at=batch.created_at)
    waited = admin("batch", "wait", batch.pk, "-o", "json")
    watched = admin("batch", "watch", batch.pk)
    Batch.objects.update(counts={"completed": 2})
    succeeded = admin("batch", "watch", batch.pk, "-o", "json")

    assert (late.exit_code, waited.exit_code, watched.exit_code) == (8, 7, 7), (late.output, waited.output)
    assert "has not ended in time" in late.stderr
    assert json.loads(waited.stdout)["counts"]["archived"] == 1
    assert watched.stdout == "2 of 2 ended: 1 completed, 1 archived\n"
    assert (succeeded.exit_code, json.loads(succeeded.stdout)["event"]) == (0, "end")
