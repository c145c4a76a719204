"""Schedules in queue files."""

from pathlib import Path

import pytest
from django.core.management import call_command

from queues.file_sections import LoadedNames
from queues.models import Queue
from queues.queue_files import load_queue_files
from schedules.models import Fire, Schedule
from tests.api.client import ApiClient, Response
from tests.schedules.conftest import Times

pytestmark = pytest.mark.usefixtures("queues")
QUEUES = """
queues:
  reports:
    priority: 5
    deployment:
      git_url: https://github.com/example/repo.git
      startup_cmd: python main.py
"""
SCHEDULES = """
schedules:
  nightly:
    queue: reports
    payload: {report: sales, day: 2026-01-31}
    cron: 0 13 * * *
    options: {max_retry: 1}
  often:
    queue: reports
    every: 5m
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reports.yaml").write_text(QUEUES + SCHEDULES)
    return tmp_path


def test_a_reload_keeps_the_identity_and_the_due_times_of_schedules(folder: Path, times: Times) -> None:
    first = load_queue_files(directory=folder)
    times.run_in(minutes=61)
    before = {row.name: (row.pk, row.next_due_at) for row in Schedule.objects.all()}
    text = (folder / "reports.yaml").read_text()
    (folder / "reports.yaml").write_text(text.replace("max_retry: 1", "max_retry: 2"))

    again = load_queue_files(directory=folder)

    assert (first.errors, again.errors) == ([], [])
    assert first.sections == {"schedules": LoadedNames(added=["nightly", "often"])}
    assert again.sections == {"schedules": LoadedNames(updated=["nightly"], unchanged=["often"])}
    assert {row.name: (row.pk, row.next_due_at) for row in Schedule.objects.all()} == before
    nightly = Schedule.objects.get(name="nightly")
    assert (nightly.options, nightly.source) == ({"max_retry": 2}, "file")
    assert nightly.payload == '{"report":"sales","day":"2026-01-31"}'
    assert [fire.state for fire in Fire.objects.filter(schedule=nightly)] == ["enqueued"]


def test_errors_name_file_line_and_field_and_prune_deletes_what_is_gone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_queue_files(directory=folder)
    (folder / "reports.yaml").write_text(QUEUES + SCHEDULES.replace("every: 5m", "every: 5m\n    tz: UTC"))
    (folder / "other.yaml").write_text("schedules: {nightly: {queue: reports, cron: '@daily'}}")
    wrong = load_queue_files(directory=folder, prune=True)
    (folder / "reports.yaml").write_text(QUEUES)

    call_command("load_queues", folder)
    pruned = load_queue_files(directory=folder, prune=True)

    reasons = sorted(str(error).partition("reports.yaml")[2] for error in wrong.errors)
    assert reasons == [":15: schedules.often: tz: Unknown field."]
    assert capsys.readouterr().out == "unchanged: reports\nschedules unchanged: nightly\nschedules missing: often\n"
    assert pruned.errors == []
    assert pruned.sections["schedules"] == LoadedNames(unchanged=["nightly"], missing=["often"], removed=["often"])
    assert [(row.name, row.cron) for row in Schedule.objects.all()] == [("nightly", "0 0 * * *")]


def apply(content: str, query: str = "") -> Response:
    files = {"files": [{"name": "reports.yaml", "content": content}]}
    return ApiClient().post(f"/api/cli/configs/apply{query}", files)


def outcomes(response: Response) -> dict[str, str]:
    assert response.status_code == 200, response.content
    return {schedule["name"]: schedule["outcome"] for schedule in response.json()["schedules"]}


def test_applied_files_report_their_schedules_and_a_dry_run_changes_none() -> None:
    text, dry = QUEUES + SCHEDULES, "?dry_run=true&prune=applied"
    planned, left = apply(text, dry), Schedule.objects.count()

    first = apply(text)
    changed = apply(text.replace("every: 5m", "every: 6m"), dry)
    pruned = apply(QUEUES, dry), apply(QUEUES, "?prune=applied")

    assert (outcomes(planned), left) == ({"nightly": "added", "often": "added"}, 0)
    assert outcomes(first) == outcomes(planned)
    assert outcomes(changed) == {"nightly": "unchanged", "often": "updated"}
    often = changed.json()["schedules"][1]
    assert (often["source"], often["before"]) == (
        "applied",
        "schedules:\n  often:\n    queue: reports\n    every: 300\n",
    )
    assert often["after"] == often["before"].replace("300", "360")
    assert [outcomes(each) for each in pruned] == [{"nightly": "removed", "often": "removed"}] * 2
    assert not Schedule.objects.exists()


def test_a_schedule_that_has_ended_is_loaded_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = QUEUES + SCHEDULES + "    ends_at: 2026-01-01T00:00:00Z\n"
    (tmp_path / "reports.yaml").write_text(ended)

    call_command("load_queues", tmp_path)
    again = load_queue_files(directory=tmp_path)
    planned, applied = apply(ended, "?dry_run=true").json(), apply(ended).json()

    warning = "reports.yaml:15: schedules.often: ends_at: Is in the past, so it would never be due."
    assert capsys.readouterr().err == f"Warning: {tmp_path}/{warning}\n"
    assert [str(each) for each in again.warnings] == [f"{tmp_path}/{warning}"]
    assert planned["warnings"] == applied["warnings"] == [warning]
    assert Schedule.objects.get(name="often").next_due_at is None


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_schedule_that_its_queue_would_refuse_leaves_all_as_they_were(query: str) -> None:
    queues = QUEUES + "    input: [{name: to, type: [string], required: true}]\n"

    response = apply(queues + SCHEDULES.replace("queue: reports\n    every", "queue: gone\n    every"), query)

    assert response.status_code == 400
    errors = [str(error) for error in response.json()["errors"]]
    assert errors[0].startswith("reports.yaml:11: schedules.nightly: payload.to: ")
    assert errors[1].startswith("reports.yaml:16: schedules.often: No queue 'gone'. Valid names: ")
    assert not Queue.objects.filter(name="reports").exists()
