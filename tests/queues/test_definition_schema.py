"""A field of a queue is defined in the model, the definition, the serializer and, for workers, the registration."""

from dataclasses import fields
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import models

from queues.admin.forms import FIELDSETS
from queues.definition_serializers import DeploymentSerializer, QueueDefinitionSerializer, QueueLimitsSerializer
from queues.definitions import Deployment, LimitOverrides, Limits, QueueBase
from queues.models import Queue
from workers.api.serializers import WorkerDeploymentSerializer, WorkerLimitsSerializer

NOT_DEFINED = {"id", "source", "file_digest", "file_path", "created_at", "updated_at", "sub_queues"}
"""Columns that describe the row, not the queue."""

NOT_FOR_WORKERS = {"git_token", "max_waiting_tasks"}
"""The token is delivered decrypted; the server rejects tasks beyond the limit."""

COLUMNS = {field.name for field in Queue._meta.get_fields()} - NOT_DEFINED
DEPLOYMENT = {field.name for field in fields(Deployment)}
LIMITS = {field.name for field in fields(LimitOverrides)}


def sources(serializer: Any) -> set[str]:
    """Return the sources of the fields of a serializer."""
    return {field.source.removeprefix("deployment.") for field in serializer.fields.values()}


def test_every_column_of_a_queue_is_in_its_definition() -> None:
    of_queue = {field.name for field in fields(QueueBase)} - {"deployment", "sub_queues"}

    assert of_queue | DEPLOYMENT | LIMITS == COLUMNS


def test_every_field_of_a_definition_is_in_the_serializer() -> None:
    assert sources(DeploymentSerializer()) - {"mode", "limits"} == DEPLOYMENT
    assert sources(QueueLimitsSerializer()) == LIMITS == {field.name for field in fields(Limits)}
    assert sources(QueueDefinitionSerializer()) == {field.name for field in fields(QueueBase)} - {"name", "is_enabled"}


def test_every_field_of_a_definition_is_in_the_form() -> None:
    in_form = {name for _, options in FIELDSETS for name in options["fields"]} - {"check", "example"}

    assert in_form == COLUMNS


def test_workers_get_every_field_but_those_that_only_the_server_needs() -> None:
    assert sources(WorkerDeploymentSerializer()) - {"mode"} == DEPLOYMENT - NOT_FOR_WORKERS
    assert sources(WorkerLimitsSerializer()) == LIMITS - NOT_FOR_WORKERS


def test_defaults_are_the_same_in_the_model_and_the_definition() -> None:
    row = Queue()
    spec = Deployment(git_url="", startup_cmd="")

    assert {name: getattr(row, name) for name in DEPLOYMENT - {"vaults"}} == {
        name: getattr(spec, name) for name in DEPLOYMENT - {"vaults"}
    }
    assert {getattr(row, name) for name in LIMITS} == {None}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "a b"),
        ("priority", 0),
        ("git_url", "git@host:/srv/repo"),
        ("branch", "a..b"),
        ("code_path", "../x"),
        ("startup_cmd", "python 'x"),
        ("startup_timeout_s", 0),
        ("requirements_file", "/etc/passwd"),
        ("env_vars", {"PATH": "x"}),
        ("vaults", ["a", "a"]),
        ("git_token", "ghp_x"),
        ("max_retry", 10_001),
        ("active_timeout_s", 0),
        ("input", [{"name": "x", "type": ["int"], "default": "text"}]),
    ],
)
def test_the_model_validates_each_column(column: str, value: Any) -> None:
    row = Queue(name="mail", git_url="https://h/r", startup_cmd="x")
    row.clean_fields()
    setattr(row, column, value)

    with pytest.raises(ValidationError) as refused:
        row.clean_fields()

    assert list(refused.value.message_dict) == [column]


def test_every_text_and_number_has_a_help_text() -> None:
    fields = [field for field in Queue._meta.get_fields() if isinstance(field, models.Field) and field.name in COLUMNS]

    assert [field.name for field in fields if not field.help_text] == []
