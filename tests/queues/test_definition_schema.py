"""A field of a queue is defined in the model, the definition, the serializer and, for workers, the registration."""

from dataclasses import fields, replace
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import models
from django.test import Client

from queues.definition_serializers import QueueDefinitionSerializer, parse_queue
from queues.definitions import Deployment, LimitOverrides, Limits, QueueBase, QueueSpec
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.errors import QueueInvalid
from tests.queues.admin_pages import ADD
from workers.api.serializers import WorkerDeploymentSerializer, WorkerLimitsSerializer

NOT_DEFINED = {
    "id",
    "source",
    "file_digest",
    "file_path",
    "created_at",
    "updated_at",
    "sub_queues",
    "webhook_secret",
    "git_hook_secret",
    "replacements",
    "releases",
    "pushes",
}
"""Columns that describe the row, not the queue."""

NOT_FOR_WORKERS = {
    *("git_token", "max_waiting_tasks", "max_payload_bytes", "max_memory_share"),
    *("release", "rollout_first", "rollout_bake_s", "rollout_max_unavailable", "keep_previous"),
}
"""The token is delivered decrypted; the server rejects tasks beyond the limits, and chooses workers for a release, and
whether these keep their previous processes."""

COLUMNS = {field.name for field in Queue._meta.get_fields()} - NOT_DEFINED
DEPLOYMENT = {field.name for field in fields(Deployment)}
LIMITS = {field.name for field in fields(LimitOverrides)}


BARE = QueueSpec(name="", priority=0, deployment=Deployment(git_url="", startup_cmd=""))
DEFINITION = {
    "priority": 10,
    "mode": "one_shot",
    "order": "strict",
    "sub_queues": [{"name": "high", "priority": 10}, {"name": "low", "priority": 3}],
    "deployment": {
        "git_url": "https://h/r.git",
        "branch": "release/2",
        "code_path": "worker",
        "startup_cmd": "python main.py",
        "mode": "one_shot",
        "startup_timeout_secs": 300,
        "child_concurrency": 8,
        "requirements_file": "requirements/gpu.txt",
        "env_vars": {"A": "1"},
        "redis_storage": False,
        "hide_payloads": True,
        "vaults": ["b", "a"],
        "git_token": "vault://c/PAT",
        "release": "push",
        "rollout": {"first": 2, "bake": 300, "max_unavailable": "50%", "replace_first": False, "keep_previous": True},
        "limits": {
            "max_retry": 1,
            "ttl_completed": 2,
            "ttl_archived": 3,
            "pending_timeout": 4,
            "active_timeout": 5,
            "retry_delay": 6,
            "retry_max_delay": 7,
            "max_waiting_tasks": 8,
            "max_payload_bytes": 9,
            "max_result_bytes": 10,
            "max_memory_share": 11,
        },
    },
    "webhook_hosts": ["hooks.example.com", "hooks.example.org:8443"],
    "input": [{"name": "x", "type": ["int"], "required": False, "default": 7}],
    "output": [{"name": "y", "type": ["string"], "required": True, "description": "what"}],
}
"""Every field, with another value than its default."""


def fields_at_default(value: Any, bare: Any) -> set[str]:
    """Return the names of the fields that a value sets to their defaults."""
    return {field.name for field in fields(value) if getattr(value, field.name) == getattr(bare, field.name)}


def sources(serializer: Any) -> set[str]:
    """Return the sources of the fields of a serializer."""
    return {field.source.removeprefix("deployment.") for field in serializer.fields.values()}


def test_every_column_of_a_queue_is_in_its_definition() -> None:
    of_queue = {field.name for field in fields(QueueBase)} - {"deployment", "sub_queues"}

    assert of_queue | DEPLOYMENT | LIMITS == COLUMNS


def test_the_server_has_a_default_for_every_limit() -> None:
    assert {field.name for field in fields(Limits)} == LIMITS


@pytest.mark.usefixtures("configuration")
def test_a_definition_with_every_field_is_stored_and_rendered_unchanged() -> None:
    spec = parse_queue("mail", DEFINITION)

    save_queue(spec=spec, source=QueueSource.API)

    assert fields_at_default(spec, BARE) == {"is_enabled"}  # no member of a definition
    assert fields_at_default(spec.deployment, BARE.deployment) == {"replace_first"}  # refused beside keep_previous
    assert fields_at_default(spec.limits, BARE.limits) == set()
    assert Queue.objects.get().as_spec() == spec
    assert QueueDefinitionSerializer(spec).data == DEFINITION


@pytest.mark.usefixtures("configuration")
def test_previous_processes_are_not_kept_where_memory_has_no_room_for_two() -> None:
    spec = parse_queue("mail", DEFINITION)

    with pytest.raises(QueueInvalid) as refused:
        save_queue(spec=replace(spec, deployment=replace(spec.deployment, replace_first=True)), source=QueueSource.API)

    assert [error.partition(":")[0] for error in refused.value.errors] == ["deployment.rollout.keep_previous"]


def test_every_column_is_in_the_form(staff: Client) -> None:
    page = staff.get(ADD).context["adminform"]

    assert {field.field.name for fieldset in page for line in fieldset for field in line} >= COLUMNS


def test_workers_get_every_field_but_those_that_only_the_server_needs() -> None:
    computed = {"mode", "max_startup_s", "max_startup_silence_s"}
    assert sources(WorkerDeploymentSerializer()) - computed == DEPLOYMENT - NOT_FOR_WORKERS - {"startup_timeout_s"}
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
        ("startup_timeout_s", -1),
        ("child_concurrency", 257),
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
