"""`runqy queue` and `runqy config` against the real application."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import Result

from queues import deletion
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.cli import prompts, queue_files, watching
from runqy.cli.commands import Session
from runqy.cli.errors import ExitCode
from schedules.models import Schedule
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import put, take_one
from tests.tasks.task_helpers import succeed

FILE = "queues:\n  {}:\n    priority: {}\n    deployment: {{git_url: 'https://h/r', startup_cmd: x}}\n"


@pytest.fixture(autouse=True)
def _has_queues(application: httpx2.WSGITransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two queues, one with sub-queues."""
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("image", "high:10", "low:3"), source=QueueSource.API)


@pytest.fixture
def queue(run: Callable[..., Result]) -> Callable[..., Result]:
    """Return a function that runs `runqy queue` as an administrator."""
    return lambda *arguments, **options: run("queue", *arguments, "-k", ADMIN_KEY, **options)


def outcome(result: Result) -> tuple[int, str]:
    return result.exit_code, result.stdout


def test_a_queue_is_shown_with_what_it_runs(queue: Callable[..., Result], single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", queue="image_high")

    shown = dict(line.split("\t") for line in queue("show", "image.high").stdout.splitlines())
    document = json.loads(queue("show", "image_high", "-o", "json").stdout)

    assert (shown["queue"], shown["parent"], shown["pending"], shown["priority"]) == ("image_high", "image", "2", "10")
    assert shown["git_url"] == document["config"]["deployment"]["git_url"] != ""
    assert (document["pending"], document["config"]["name"]) == (2, "image")


def test_the_concurrency_of_an_applied_queue_is_shown(queue: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        FILE.format("one", 1).replace("startup_cmd: x", "startup_cmd: x, child_concurrency: 8")
    )

    queue("apply", "-f", str(tmp_path / "a.yaml"))

    assert "child_concurrency\t8\n" in queue("show", "one").stdout


def test_the_name_of_a_queue_means_its_sub_queues(queue: Callable[..., Result]) -> None:
    assert [line.split("\t")[0] for line in queue("show", "image").stdout.splitlines()] == ["image_high", "image_low"]
    assert outcome(queue("pause", "image", "mail")) == (0, "image_high: paused\nimage_low: paused\nmail: paused\n")
    assert queue("list", "-o", "json").stdout.count('"paused": true') == 3
    assert outcome(queue("unpause", "image.low")) == (0, "image_low: unpaused\n")


def test_an_unknown_queue_is_an_error_with_the_names_that_exist(queue: Callable[..., Result]) -> None:
    for words in (["show"], ["pause"], ["disable"], ["stats"], ["redeploy"], ["watch"]):
        result = queue(*words, "nope")

        assert result.exit_code == ExitCode.NOT_FOUND, words
        assert "nope" in result.stderr


def test_a_queue_is_disabled_and_enabled(queue: Callable[..., Result]) -> None:
    assert outcome(queue("disable", "image_low", "mail")) == (0, "image: disabled\nmail: disabled\n")
    assert [*Queue.objects.values_list("is_enabled", flat=True)] == [False, False]
    assert outcome(queue("enable", "mail")) == (0, "mail: enabled\n")


def test_a_queue_is_created_by_options_and_updated_with_force(queue: Callable[..., Result]) -> None:
    words = ["create", "new", "--git-url", "https://h/r", "--startup-cmd", "python main.py"]
    words += ["--sub-queue", "high:10", "--sub-queue", "low:3"]

    results = [queue(*words), queue(*words), queue(*words, "--mode", "one_shot", "--force")]

    assert [outcome(each) for each in results] == [
        (0, "new: created\n"),
        (ExitCode.CONFLICT, ""),
        (0, "new: updated\n"),
    ]
    row = Queue.objects.get(name="new")
    assert (row.mode, [*row.sub_queues.values_list("name", "priority")]) == ("one_shot", [("high", 10), ("low", 3)])
    wrong = queue(*words, "--sub-queue", "medium")
    assert (wrong.exit_code, "'medium' is not NAME:PRIORITY" in wrong.stderr) == (ExitCode.USAGE, True)


def test_a_queue_is_deleted_with_its_tasks_after_a_question(
    queue: Callable[..., Result], single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(single_broker, "t1", "t2", queue="image_high")
    put(single_broker, "t3", queue="image_low")
    refused = queue("delete", "image")
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    answered_no = queue("delete", "image", input="n\n")
    answered_yes = queue("delete", "image", "mail", input="y\n")

    assert (refused.exit_code, "--force" in refused.stderr) == (ExitCode.USAGE, True)
    assert answered_no.exit_code == ExitCode.FAILED
    assert "Delete image (3 tasks)?" in answered_no.stderr
    assert "Delete image (3 tasks), mail (0 tasks)?" in answered_yes.stderr
    # Click's runner shows the answer first.
    assert (answered_yes.exit_code, answered_yes.stdout.partition("\n")[2]) == (0, "image: deleted\nmail: deleted\n")
    assert queue("delete", "mail", "--force").exit_code == ExitCode.NOT_FOUND
    assert outcome(queue("delete", "mail", "--force", "--ignore-missing")) == (0, "mail does not exist\n")


def test_statistics_have_a_line_for_each_step(queue: Callable[..., Result], stopped_clock: None) -> None:
    insert_runs(make_run(), make_failure(), queue="mail")
    since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="seconds")

    points = json.loads(queue("stats", "mail", "--from", since, "-o", "json").stdout)
    lines = [line.split("\t") for line in queue("stats", "mail", "--from", since).stdout.splitlines()]

    assert (sum(point["completed"] for point in points), sum(point["failed"] for point in points)) == (1, 1)
    assert sum(int(line[2]) for line in lines) == 1
    assert {len(line) for line in lines} == {8}
    wrong = queue("stats", "mail", "--step", "soon")
    assert (wrong.exit_code, "step: " in wrong.stderr) == (ExitCode.FAILED, True)


def test_watching_prints_a_queue_again_when_it_has_changed(
    queue: Callable[..., Result], single_broker: Broker, replace_sleep: Callable[..., None]
) -> None:
    steps = iter([lambda: None, lambda: put(single_broker, "t1", queue="mail")])

    def sleep(_: float) -> None:
        if (step := next(steps, None)) is None:
            raise KeyboardInterrupt
        step()

    replace_sleep(watching, sleep)

    result = queue("watch")
    one = queue("watch", "image.low")

    assert result.exit_code == ExitCode.INTERRUPTED
    assert [line.split("\t")[0:4:3] for line in result.stdout.splitlines()] == [
        *(["image_high", "0"], ["image_low", "0"], ["mail", "0"]),
        ["mail", "1"],
    ]
    assert [line.split("\t")[0] for line in one.stdout.splitlines()] == ["image_low"]


def test_files_are_applied_and_what_is_equal_stays(queue: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "queues"
    folder.mkdir()
    (folder / "a.yaml").write_text(FILE.format("one", 1))
    (folder / "b.yml").write_text(FILE.format("two", 1))
    (folder / "notes.txt").write_text("no queue file")

    first = queue("apply", "-f", str(folder))
    saved = Queue.objects.get(name="two").updated_at
    (folder / "a.yaml").write_text(FILE.format("one", 2))
    second = queue("apply", "-f", str(folder))
    from_stdin = queue("apply", "-f", "-", "-f", str(folder / "b.yml"), input=FILE.format("three", 3))

    assert outcome(first) == (0, "queue\tone\tadded\nqueue\ttwo\tadded\n")
    assert outcome(second) == (0, "queue\tone\tupdated\nqueue\ttwo\tunchanged\n")
    assert outcome(from_stdin) == (0, "queue\tthree\tadded\nqueue\ttwo\tunchanged\n")
    assert Queue.objects.get(name="two").updated_at == saved
    assert Queue.objects.get(name="one").priority == 2


def test_a_diff_shows_changes_as_diff_does_and_changes_nothing(queue: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format("one", 1) + FILE.format("old", 1).removeprefix("queues:\n"))
    queue("apply", "-f", str(file))
    file.write_text(FILE.format("one", 2) + FILE.format("new", 1).removeprefix("queues:\n"))

    found = queue("diff", "-f", str(file), "--prune")
    same = queue("apply", "-f", str(file), "--diff")
    names = queue("diff", "-f", str(file), "-o", "name")

    assert found.exit_code == same.exit_code == 1
    lines = found.stdout.splitlines()
    assert lines[:5] == ["--- server/queues/one", "+++ files/queues/one", "@@ -1,5 +1,5 @@", " queues:", "   one:"]
    assert lines[5:7] == ["-    priority: 1", "+    priority: 2"]
    assert {"--- /dev/null", "+++ files/queues/new", "--- server/queues/old", "+++ /dev/null"} < {*lines}
    assert "server/queues/old" not in same.stdout
    assert outcome(names) == (1, "one\nnew\n")
    assert {*Queue.objects.values_list("name", "priority")} >= {("one", 1), ("old", 1)}
    file.write_text(FILE.format("one", 1))
    assert outcome(queue("diff", "-f", str(file))) == (0, "")


def test_prune_deletes_what_was_applied_after_a_question(
    queue: Callable[..., Result], single_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format("old", 1))
    queue("apply", "-f", str(file))
    put(single_broker, "t1", queue="old")
    file.write_text(FILE.format("new", 1))

    dry = queue("apply", "-f", str(file), "--prune", "--dry-run")
    refused = queue("apply", "-f", str(file), "--prune")
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    answered_no = queue("apply", "-f", str(file), "--prune", input="n\n")
    left = {*Queue.objects.values_list("name", flat=True)}
    answered_yes = queue("apply", "-f", str(file), "--prune", input="y\n")

    assert outcome(dry) == (0, "queue\tnew\tadded\nqueue\told\tremoved\n")
    assert (refused.exit_code, answered_no.exit_code) == (ExitCode.USAGE, ExitCode.FAILED)
    assert "Delete old (1 task), which no file names? [y/N]" in answered_no.stderr
    assert left == {"old", "mail", "image"}
    assert (answered_yes.exit_code, answered_yes.stdout.partition("\n")[2]) == (
        0,
        "queue\tnew\tadded\nqueue\told\tremoved\n",
    )
    assert {*Queue.objects.values_list("name", flat=True)} == {"new", "mail", "image"}
    assert outcome(queue("apply", "-f", str(file), "--prune-all", "--force"))[0] == 0
    assert [*Queue.objects.values_list("name", flat=True)] == ["new"]


def test_schedules_of_files_are_listed_compared_and_pruned_like_queues(
    queue: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("schedules: {nightly: {queue: mail, cron: '@daily'}}")

    dry = queue("apply", "-f", str(file), "--dry-run")
    shown = queue("diff", "-f", str(file))
    applied = queue("apply", "-f", str(file))
    file.write_text("schedules: {}")
    kept, refused = queue("apply", "-f", str(file)), queue("apply", "-f", str(file), "--prune")
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    answered_yes = queue("apply", "-f", str(file), "--prune", input="y\n")

    assert outcome(dry) == outcome(applied) == (0, "schedule\tnightly\tadded\n")
    assert shown.exit_code == ExitCode.FAILED
    assert shown.stdout.splitlines()[:2] == ["--- /dev/null", "+++ files/schedules/nightly"]
    assert "+    cron: 0 0 * * *" in shown.stdout
    assert outcome(kept) == (0, "")
    assert refused.exit_code == ExitCode.USAGE
    assert "Delete the schedule nightly, which no file names? [y/N]" in answered_yes.stderr
    assert answered_yes.stdout.partition("\n")[2] == "schedule\tnightly\tremoved\n"
    assert not Schedule.objects.exists()


def test_a_queue_that_may_be_pruned_only_after_the_plan_is_kept(
    queue: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, send = tmp_path / "a.yaml", queue_files.send_files
    file.write_text(FILE.format("new", 1))

    def send_and_wait(session: Session, files: dict[str, str], **options: Any) -> dict[str, Any]:
        found = send(session, files, **options)
        if options.get("dry_run"):
            save_queue(spec=spec("late"), source=QueueSource.APPLIED)  # as another client's apply
        return found

    monkeypatch.setattr(queue_files, "send_files", send_and_wait)

    assert outcome(queue("apply", "-f", str(file), "--prune")) == (0, "queue\tnew\tadded\n")
    assert Queue.objects.filter(name="late").exists()


def test_tasks_of_a_sub_queue_that_a_file_drops_are_deleted_after_a_question(
    queue: Callable[..., Result], single_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    subs = "    sub_queues: [{name: high, priority: 10}, {name: low, priority: 3}, {name: empty, priority: 1}]"
    file.write_text(FILE.format("news", 10).replace("    priority: 10", subs))
    queue("apply", "-f", str(file))
    put(single_broker, "t1", queue="news_low")
    succeed(single_broker, take_one(single_broker, "news_low"), b"1")
    file.write_text(FILE.format("news", 10).replace("    priority: 10", "    sub_queues: [{name: high, priority: 10}]"))

    refused = queue("apply", "-f", str(file))
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    answered_no = queue("apply", "-f", str(file), input="n\n")
    left = Queue.objects.get(name="news").sub_queues.count()
    answered_yes = queue("apply", "-f", str(file), input="y\n")

    assert (refused.exit_code, answered_no.exit_code, left) == (ExitCode.USAGE, ExitCode.FAILED, 3)
    assert "Delete news_low (1 task), which no file has as a sub-queue any more? [y/N]" in answered_no.stderr
    assert (answered_yes.exit_code, answered_yes.stdout.partition("\n")[2]) == (0, "queue\tnews\tupdated\n")
    assert Queue.objects.get(name="news").sub_queues.count() == 1


def test_files_are_sent_again_while_the_server_cannot_do_all_of_it(run, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(queue_files, "_PAUSES_S", (0, 0))
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format("one", 1))
    added, unchanged = (
        {"queue": "one", "outcome": outcome, "source": None, "reason": None, "dropped": []}
        for outcome in ("added", "unchanged")
    )
    away = (503, {"code": "broker_unavailable", "detail": "The queues of the files are saved, but …"})
    server.responses = [
        (200, {"dry_run": True, "queues": [added], "schedules": []}),
        away,
        away,
        (200, {"dry_run": False, "queues": [unchanged], "schedules": []}),
    ]

    result = run("queue", "apply", "-f", str(file))

    assert outcome(result) == (0, "queue\tone\tunchanged\n")
    assert result.stderr.count("saved, but … Trying again") == 2


@pytest.mark.parametrize("words", [["apply"], ["apply", "--dry-run"], ["diff"]])
def test_a_schedule_that_has_ended_is_a_warning(queue: Callable[..., Result], tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        FILE.format("one", 1)
        + "schedules: {old: {queue: one, every: 5m, starts_at: 2025-01-01T00:00:00Z, ends_at: 2026-01-01T00:00:00Z}}\n"
    )

    result = queue(*words, "-f", str(file))

    assert "schedules.old: ends_at: Is in the past, so it would never be due." in result.stderr
    assert result.exit_code == (1 if words == ["diff"] else 0)


@pytest.mark.parametrize("words", [["apply"], ["apply", "--dry-run"], ["diff"]])
def test_an_error_names_file_line_and_field_and_nothing_is_applied(
    queue: Callable[..., Result], tmp_path: Path, words: list[str]
) -> None:
    good, wrong = tmp_path / "good.yaml", tmp_path / "wrong.yaml"
    good.write_text(FILE.format("one", 1))
    wrong.write_text(FILE.format("two", 0).replace("startup_cmd", "startup_command"))

    result = queue(*words, "-f", str(good), "-f", str(wrong))

    assert outcome(result) == (ExitCode.USAGE, "")
    assert result.stderr.splitlines() == [
        f"runqy: {wrong}:3: queues.two.priority: Ensure this value is greater than or equal to 1.",
        f"  {wrong}:4: queues.two.deployment.startup_command: Unknown field; did you mean `startup_cmd`?",
    ]
    assert not Queue.objects.filter(name="one").exists()


def test_files_that_cannot_be_read_are_errors(queue: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"queues:\n  caf\xe9: 1\n")

    results = [queue("apply", "-f", str(tmp_path / name)) for name in ("nowhere", "empty", "latin.yaml")]

    assert [result.exit_code for result in results] == [ExitCode.USAGE] * 3
    assert [result.stderr for result in results] == [
        f"runqy: {tmp_path}/nowhere: No such file or directory.\n",
        f"runqy: {tmp_path}/empty: The folder has no *.yaml or *.yml.\n",
        f"runqy: {tmp_path}/latin.yaml:2: Must be UTF-8.\n",
    ]
