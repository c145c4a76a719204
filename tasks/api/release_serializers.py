"""Serializers of the releases of a queue, with examples for the schema."""

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from queues.models import Release
from queues.queries import HIDDEN
from runqy.api.schema import response_example
from runqy.api.serializers import EmptyAsNullField, NamesField
from tasks.history.error_groups import ErrorGroup

_RELEASE_EXAMPLE = {
    "number": 7,
    "state": "reverted",
    "reason": "6 of its first 10 runs failed",
    "output": "",
    "source": "manual",
    "actor": "admin",
    "commit": "9f2c41d7a86b35e0c4d18f7a2b6e93055d0c1a4f",
    "subject": "Read larger images",
    "author": "Ada",
    "committed_at": "2024-01-15T09:12:00Z",
    "like": None,
    "git_url": "https://github.com/example/repo.git",
    "branch": "main",
    "code_path": "",
    "startup_cmd": "python main.py",
    "requirements_file": "requirements.txt",
    "created_at": "2024-01-15T10:30:00Z",
    "live_at": None,
    "ended_at": "2024-01-15T10:31:20Z",
    "workers": ["worker-abc123"],
    "most_frequent_error": {
        "count": 6,
        "fingerprint": "0f6b1c9e3a5d47f28c1e0b9d6a7f5e42",
        "error_class": "ValueError",
        "error_message": "no model named 'x'",
        "task_id": "task-uuid",
        "redis_queue": "inference_high",
    },
}


class ReleaseErrorSerializer(serializers.Serializer[Any]):
    """The most frequent error of a release, as the newest run with it has it."""

    count = serializers.IntegerField(help_text="The number of runs with this error")
    fingerprint = serializers.CharField(help_text="The group of the error, as in `/api/errors`")
    error_class = EmptyAsNullField(source="sample.error_class", allow_null=True)
    error_message = serializers.CharField(
        source="sample.error_message", help_text="Hidden from viewers where payloads are"
    )
    task_id = serializers.CharField(source="sample.task_id", help_text="A task whose run failed with it")
    redis_queue = serializers.CharField(source="sample.redis_queue", help_text="Of this task")


class ReleaseSerializer(serializers.ModelSerializer[Release]):
    """A release of a queue."""

    commit = EmptyAsNullField(allow_null=True, help_text="Null until a worker has deployed the newest of the branch")
    reason = serializers.CharField(
        help_text="Why it was reverted, superseded or failed; while it is rolling out, what it waits for"
    )
    like = serializers.IntegerField(
        allow_null=True, help_text="The release that has the same commit: of a rollback the one that it goes back to"
    )
    output = serializers.CharField(
        help_text="How its process ended on the worker that could not start it, and the last lines that it printed"
    )
    workers = NamesField(help_text="The workers that run it while it is rolling out")
    most_frequent_error = serializers.SerializerMethodField(
        help_text="The error with which most of its runs failed, if it was reverted; null: none is known"
    )

    class Meta:
        model = Release
        fields: ClassVar = [
            *("number", "state", "reason", "output", "source", "actor"),
            *("commit", "subject", "author", "committed_at", "like"),
            *("git_url", "branch", "code_path", "startup_cmd", "requirements_file"),
            *("created_at", "live_at", "ended_at", "workers", "most_frequent_error"),
        ]

    @extend_schema_field(ReleaseErrorSerializer(allow_null=True))
    def get_most_frequent_error(self, release: Release) -> dict[str, Any] | None:
        errors: Mapping[int, ErrorGroup] = self.context["errors"]
        group = errors.get(release.number)
        if group is None:
            return None
        shown: dict[str, Any] = dict(ReleaseErrorSerializer(group).data)
        return shown | {"error_class": None, "error_message": HIDDEN} if self.context["is_hidden"] else shown


@response_example({"queue": "inference", "releases": [_RELEASE_EXAMPLE]})
class ReleaseListSerializer(serializers.Serializer[Any]):
    """The releases of a queue, the newest first."""

    queue = serializers.CharField()
    releases = ReleaseSerializer(many=True)
