"""Loading a directory of queue files into the database."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from queues.models import Queue, QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from queues.queue_files import LoadReport, load_queue_files
from runqy.broker import keys
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import Revision, StoredDocument
from tests.queues.samples import spec

pytestmark = pytest.mark.usefixtures("configuration")

QUEUE = """\
  {name}:
    priority: {priority}
    deployment: {{git_url: "https://github.com/example/repo.git", startup_cmd: python main.py}}
"""


SUB_QUEUE = "    sub_queues: [{name: high, priority: 5}]\n"


def write(folder: Path, file: str, *queues: str) -> Path:
    """Write a queue file; queues are written `mail` or `mail:7`."""
    text = "queues:\n"
    for queue in queues:
        name, _, priority = queue.partition(":")
        text += QUEUE.format(name=name, priority=priority or 5)
    (folder / file).write_text(text)
    return folder


def load(folder: Path, *, prune: bool = False) -> LoadReport:
    return load_queue_files(directory=folder, prune=prune)


def test_queues_are_added_updated_and_left_unchanged(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a.yaml", "mail", "video")).added == ["mail", "video"]
    revision = get_fresh_catalog().queue_revision("mail")

    report = load(write(tmp_path, "a.yaml", "mail", "video:7"))

    assert report == LoadReport(updated=["video"], unchanged=["mail"])
    assert get_fresh_catalog().resolve("video").priority == 7
    assert get_fresh_catalog().queue_revision("mail") == revision


def test_many_queues_are_published_together_and_unchanged_ones_cost_no_queries(
    tmp_path: Path, redis: redis_py.Redis, django_assert_num_queries: Any
) -> None:
    few, many = [f"few{n}" for n in range(3)], [f"many{n}" for n in range(40)]
    load(write(tmp_path, "a.yaml", *few))
    with CaptureQueriesContext(connection) as unchanged:
        load(tmp_path)
    revision = Revision.objects.get().value

    write(tmp_path, "a.yaml", *few, *many)
    with CaptureQueriesContext(connection) as added:
        report = load(tmp_path)

    assert len(added) <= 5 * len(many) + 30  # a savepoint, its release, pending deletions, the row and its record
    rows = StoredDocument.objects.filter(kind=DocumentKind.QUEUE, revision__gt=revision)
    assert (len(report.added), len(rows), len({row.revision for row in rows})) == (40, 40, 1)
    assert redis.hlen(keys.CONFIG_DOCUMENTS) == StoredDocument.objects.count()
    with django_assert_num_queries(len(unchanged)):
        assert len(load(tmp_path).unchanged) == 43


def test_a_queue_that_cannot_be_saved_leaves_no_trace_of_it_and_the_others_are_loaded(tmp_path: Path) -> None:
    save_queue(spec=spec("mail_high"), source=QueueSource.API)
    write(tmp_path, "a.yaml", "audio", "video")
    (tmp_path / "b.yaml").write_text("queues:\n" + QUEUE.format(name="mail", priority=5) + SUB_QUEUE)

    report = load(tmp_path)

    assert (report.added, [error.reason for error in report.errors]) == (
        ["audio", "video"],
        ["The name 'mail_high' is already used by the queue mail_high."],
    )
    names = StoredDocument.objects.filter(kind=DocumentKind.QUEUE).values_list("name", flat=True)
    assert sorted(names) == ["audio", "mail_high", "video"]


def test_a_file_with_an_error_changes_nothing_and_the_others_are_loaded(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "mail")
    write(tmp_path, "b.yml", "video", "audio:0")
    (tmp_path / "c.yaml").write_text("queues: [")
    (tmp_path / "notes.txt").write_text("queues: [")

    report = load(tmp_path)

    assert report.added == ["mail"]
    assert [str(error).split(": ")[0] for error in report.errors] == [f"{tmp_path}/b.yml:6", f"{tmp_path}/c.yaml:1"]


def test_a_queue_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "mail")
    write(tmp_path, "b.yaml", "video", "mail")

    report = load(tmp_path)

    assert report.added == ["mail"]
    assert [*map(str, report.errors)] == [f"{tmp_path}/b.yaml:5: queues.mail: Already defined in {tmp_path}/a.yaml:2."]


def test_files_whose_queues_share_a_name_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "mail")
    write(tmp_path, "b.yaml", "mail_default")

    report = load(tmp_path)

    assert report.added == ["mail"]
    (error,) = report.errors
    assert (
        str(error)
        == f"{tmp_path}/b.yaml:2: queues.mail_default: The name 'mail_default' is already used by the queue mail."
    )


def test_a_missing_queue_is_reported_and_deleted_only_by_prune(tmp_path: Path) -> None:
    save_queue(spec=spec("by-hand"), source=QueueSource.ADMIN)
    load(write(tmp_path, "a.yaml", "mail", "video"))
    save_queue(spec=spec("mail", priority=9), source=QueueSource.ADMIN)
    write(tmp_path, "a.yaml", "video")

    assert load(tmp_path) == LoadReport(unchanged=["video"], missing=["mail"])
    assert load(tmp_path, prune=True) == LoadReport(unchanged=["video"], missing=["mail"], removed=["mail"])

    assert [queue.name for queue in get_fresh_catalog().definitions] == ["by-hand", "video"]


def test_nothing_is_deleted_while_a_file_has_errors(tmp_path: Path) -> None:
    load(write(tmp_path, "a.yaml", "mail"))
    (tmp_path / "a.yaml").write_text("queues:\n  mail: {")

    report = load(tmp_path, prune=True)

    assert (report.missing, report.removed) == (["mail"], [])
    assert Queue.objects.filter(name="mail").exists()


def test_a_queue_may_be_replaced_by_one_that_has_its_name_as_alias(tmp_path: Path) -> None:
    load(write(tmp_path, "a.yaml", "mail"))
    write(tmp_path, "a.yaml", "mail_default")

    assert load(tmp_path).errors
    assert load(tmp_path, prune=True).added == ["mail_default"]


def test_a_queue_changed_since_the_last_load_is_overwritten_and_reported(tmp_path: Path) -> None:
    load(write(tmp_path, "a.yaml", "mail:5", "video:5", "by-hand:5"))
    save_queue(spec=spec("mail", priority=9), source=QueueSource.ADMIN)

    report = load(tmp_path)

    assert report == LoadReport(updated=["mail"], unchanged=["video", "by-hand"], overwritten=["mail"])
    assert get_fresh_catalog().resolve("mail").priority == 5


def test_a_queue_created_elsewhere_is_overwritten_and_reported(tmp_path: Path) -> None:
    save_queue(spec=spec("mail", priority=9), source=QueueSource.API)

    report = load(write(tmp_path, "a.yaml", "mail"))

    assert (report.updated, report.overwritten) == (["mail"], ["mail"])


def test_loading_does_not_enable_a_disabled_queue(tmp_path: Path) -> None:
    load(write(tmp_path, "a.yaml", "mail"))
    save_queue(spec=replace(Queue.objects.get().as_spec(), is_enabled=False), source=QueueSource.ADMIN)

    assert load(tmp_path).unchanged == ["mail"]
    load(write(tmp_path, "a.yaml", "mail:8"))

    found = get_fresh_catalog().resolve("mail")
    assert (found.priority, found.queue.is_enabled) == (8, False)


def test_the_command_reports_changes_and_fails_on_errors(tmp_path: Path, capsys) -> None:
    write(tmp_path, "a.yaml", "mail")

    call_command("load_queues", tmp_path)
    assert capsys.readouterr().out == "added: mail\n"

    write(tmp_path, "b.yaml", "video:0")
    with pytest.raises(CommandError, match=r"b\.yaml:3: queues\.video\.priority"):
        call_command("load_queues", tmp_path)


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    assert [*map(str, load(tmp_path / "nowhere").errors)] == [f"{tmp_path}/nowhere: No such directory."]


def test_a_queue_stores_the_path_of_its_file(tmp_path: Path) -> None:
    load(write(tmp_path, "a.yaml", "mail"))

    assert Queue.objects.get().file_path == str(tmp_path / "a.yaml")
