"""Serializers of queue files: loaded from the folder of the server, or applied by a request."""

from typing import Any

from rest_framework import serializers

from queues.api.serializers import AT_ONCE
from queues.apply import Prune
from queues.file_sections import SECTIONS, ApplyOutcome, FileError
from runqy.api.query_parameters import ChoiceParameter, FlagParameter
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    BodySerializer,
    EmptyAsNullField,
    NamesField,
    PublishedField,
    StrictSerializer,
    StringField,
)

_RELOADED_EXAMPLE = {
    "reloaded": ["inference"],
    "errors": ["queue_workers/mail.yaml:4: queues.mail.deployment.branch: 'a..b' is not a valid branch name."],
    "timestamp": 1705314600,
    "added": ["inference"],
    "updated": [],
    "unchanged": ["simple"],
    "missing": [],
    "overwritten": [],
    "removed": [],
    "unserved": ["inference"],
    "schedules": {"added": ["nightly"], "updated": [], "unchanged": [], "missing": [], "removed": []},
    "problems": [
        {
            "file": "queue_workers/mail.yaml",
            "line": 4,
            "key": "queues.mail.deployment.branch",
            "reason": "'a..b' is not a valid branch name.",
        }
    ],
    "warnings": ["queue_workers/mail.yaml:9: schedules.old: ends_at: Is in the past, so it would never be due."],
    "published": True,
}
_WARNINGS = "What does nothing, such as a schedule whose `ends_at` has passed, and is all the same"
_APPLIED_EXAMPLE = {
    "dry_run": False,
    "warnings": [],
    "queues": [
        {
            "queue": "mail",
            "outcome": "updated",
            "source": "applied",
            "before": "queues:\n  mail:\n    priority: 1\n    …",
            "after": "queues:\n  mail:\n    priority: 2\n    …",
            "reason": None,
            "dropped": [],
        },
        {
            "queue": "old",
            "outcome": "kept",
            "source": "api",
            "before": None,
            "after": None,
            "reason": None,
            "dropped": [],
        },
    ],
    "schedules": [
        {
            "name": "nightly",
            "outcome": "added",
            "source": None,
            "before": None,
            "after": "schedules:\n  nightly:\n    queue: mail\n    …",
        }
    ],
    "published": True,
}


class ReloadQuerySerializer(BodySerializer):
    """What to do with queues that are no longer in the files."""

    prune = FlagParameter("Delete queues that are no longer in the files")
    force = FlagParameter("With `prune`: also queues with waiting or running tasks")


class ApplyQuerySerializer(BodySerializer):
    """How to apply queue files."""

    dry_run = FlagParameter("Only check the files, and show what would change")
    prune = ChoiceParameter(
        [prune.value for prune in Prune],
        "Delete queues that no file names: `applied`, only those that were saved by this route last",
        default=Prune.NONE.value,
    )
    force = FlagParameter("With `prune`: also queues with waiting or running tasks")
    replace_at_once = FlagParameter(AT_ONCE)


class QueueFileSerializer(StrictSerializer):
    """A queue file."""

    name = StringField(max_length=1024, help_text="For error messages")
    content = StringField(allow_blank=True, help_text="YAML")


@request_example({"files": [{"name": "queues/mail.yaml", "content": "queues:\n  mail: …\n"}]})
class QueueFilesSerializer(StrictSerializer):
    """The queue files to apply."""

    files = QueueFileSerializer(many=True, allow_empty=False)

    def validate_files(self, files: list[dict[str, str]]) -> list[dict[str, str]]:
        if len({file["name"] for file in files}) < len(files):
            raise serializers.ValidationError("Two files have the same name.")
        return files


class QueueFileErrorSerializer(serializers.Serializer[Any]):
    """An error in a queue file."""

    file = serializers.CharField()
    line = serializers.SerializerMethodField(help_text="Null for an error of the whole file")
    key = serializers.CharField(allow_blank=True)
    reason = serializers.CharField()

    def get_line(self, error: FileError) -> int | None:
        return error.line or None


class LoadedNamesSerializer(serializers.Serializer[Any]):
    """What loading the queue files changed under another key than `queues`."""

    added = NamesField()
    updated = NamesField()
    unchanged = NamesField()
    missing = NamesField(help_text="Loaded earlier, but no longer in any file")
    removed = NamesField(help_text="By `prune`")


@response_example(_RELOADED_EXAMPLE)
class ReloadReportSerializer(serializers.Serializer[Any]):
    """What loading the queue files changed."""

    reloaded = NamesField(source="report.loaded", help_text="All queues of the files: added, updated, unchanged")
    errors = NamesField(source="report.errors")  # type: ignore[assignment]
    timestamp = serializers.IntegerField(help_text="Unix seconds")
    added = NamesField(source="report.added")
    updated = NamesField(source="report.updated")
    unchanged = NamesField(source="report.unchanged")
    missing = NamesField(source="report.missing", help_text="Loaded earlier, but no longer in any file")
    overwritten = NamesField(
        source="report.overwritten",
        help_text="Updated, although they had been changed elsewhere",
    )
    removed = NamesField(source="report.removed", help_text="By `prune`")
    unserved = NamesField(
        allow_null=True,
        help_text="The Redis queues of these files that no worker serves; null: Redis is unavailable",
    )
    problems = QueueFileErrorSerializer(many=True, source="report.errors")
    warnings = NamesField(source="report.warnings", help_text=f"{_WARNINGS} loaded")
    published = PublishedField()

    def get_fields(self) -> dict[str, Any]:
        """Add the other keys of the files."""
        sections = {key: LoadedNamesSerializer(source=f"report.sections.{key}") for key in SECTIONS}
        return {**super().get_fields(), **sections}


class _AppliedSerializer(serializers.Serializer[Any]):
    source = EmptyAsNullField(  # type: ignore[assignment]
        allow_null=True, help_text="Where it was changed last, before this; null: it is new"
    )
    before = EmptyAsNullField(allow_null=True, help_text="As a queue file; null: it is new, or is kept")
    after = EmptyAsNullField(allow_null=True, help_text="As a queue file; null: it is removed or kept")


class AppliedItemSerializer(_AppliedSerializer):
    """What applying files does to what another key than `queues` defines."""

    name = serializers.CharField()
    outcome = serializers.ChoiceField(
        choices=[outcome.value for outcome in ApplyOutcome if outcome is not ApplyOutcome.KEPT],
        help_text="`removed`: no file names it",
    )


class AppliedQueueSerializer(_AppliedSerializer):
    """What applying files does to a queue."""

    queue = serializers.CharField(source="name")
    outcome = serializers.ChoiceField(
        choices=[outcome.value for outcome in ApplyOutcome], help_text="`removed` and `kept`: no file names it"
    )
    reason = EmptyAsNullField(allow_null=True, help_text="Why a queue that `prune` selects is kept")
    dropped = NamesField(help_text="The Redis queues of sub-queues that it loses; their tasks are deleted")


@response_example(_APPLIED_EXAMPLE)
class AppliedQueuesSerializer(serializers.Serializer[Any]):
    """What applying files changed, or in a dry run would change."""

    dry_run = serializers.BooleanField()
    queues = AppliedQueueSerializer(many=True, source="applied.queues")
    warnings = NamesField(source="applied.warnings", help_text=f"{_WARNINGS} applied")
    published = PublishedField()

    def get_fields(self) -> dict[str, Any]:
        """Add the other keys of the files."""
        sections = {key: AppliedItemSerializer(many=True, source=f"applied.sections.{key}") for key in SECTIONS}
        return {**super().get_fields(), **sections}
