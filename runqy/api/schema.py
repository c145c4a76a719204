"""Describes in the schema what all views share: problems, and paths that are aliases."""

from http import HTTPStatus
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, OpenApiParameter, OpenApiResponse
from rest_framework import serializers

IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="The ETag of what is to be changed")
IF_NONE_MATCH = OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER, description="The ETag that is known")


class Problem(serializers.Serializer[object]):
    """RFC 9457; `problem_answer` makes it."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable, for programs")
    errors = serializers.ListField(child=serializers.CharField())  # type: ignore[assignment]
    request_id = serializers.CharField()
    present_version = serializers.IntegerField(
        required=False, help_text="With `vault_entry_changed`: the version that there is, 0 for no entry"
    )
    checks = serializers.ListField(
        child=serializers.DictField(child=serializers.CharField(allow_blank=True)),
        required=False,
        help_text="With `not_ready`, if asked for by `?verbose`: `check`, `status` and `detail` of each",
    )


class ClosedBody(serializers.Serializer[object]):
    """The body of a request that has no members but those that are described."""


class ClosedBodies(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Says so in the schema."""

    target_class = ClosedBody
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema of such a body."""
        described: dict[str, Any] = auto_schema._map_serializer(  # type: ignore[no-untyped-call]
            self.target, direction, bypass_extensions=True
        )
        return {**described, "additionalProperties": False}


def problems(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    """Return the responses of a view for these statuses; whoever needs a key may have sent too much with it."""
    told = {*statuses, *([429] if 401 in statuses else [])}
    return {
        (status, "application/problem+json"): OpenApiResponse(Problem, HTTPStatus(status).phrase)
        for status in sorted(told)
    }


class Schema(AutoSchema):
    """Describes an operation: the docstring's first line sums it up, an alias has its own id and is deprecated."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the operation as OpenAPI spells it."""
        operation = super().get_operation(*args, **kwargs)
        if operation and "summary" not in operation:
            operation["summary"], _, more = operation.pop("description", "").partition("\n")
            operation |= {"description": more.strip()} if more.strip() else {}
        if operation and getattr(self.view, "successor", None):
            operation["operationId"] += "_alias"
            operation["deprecated"] = True
        return operation
