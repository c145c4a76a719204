"""Tasks and workers are models for the admin's sake, and have no table that anything could look for."""

import json

import pytest
from django.core.management import call_command

from tasks.models import Task
from workers.models import Worker


@pytest.mark.django_db
def test_a_database_is_dumped_as_if_they_were_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("dumpdata", "auth", "tasks", "workers")

    assert {row["model"].split(".")[0] for row in json.loads(capsys.readouterr().out)} == {"auth"}


@pytest.mark.parametrize("model", [Task, Worker])
def test_there_are_no_rows_and_no_question_to_the_database(model: type[Task] | type[Worker]) -> None:
    assert list(model.objects.all()) == []
    assert model.objects.count() == 0
