"""The OpenAPI schema of what all viewsets share: problem responses, parameters, deprecated aliases."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema_serializer
from rest_framework import serializers

Body = TypeVar("Body", bound=type[serializers.BaseSerializer[Any]])

IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="The ETag of the version to change")
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", str, OpenApiParameter.HEADER, description="The ETag of a known version"
)


class ProblemSerializer(serializers.Serializer[object]):
    """An error response as RFC 9457 describes it."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable, for programs")
    errors = serializers.ListField(child=serializers.CharField())  # type: ignore[assignment]
    request_id = serializers.CharField()
    present_version = serializers.IntegerField(
        required=False, help_text="With `vault_entry_changed`: the current version, 0 for no entry"
    )
    checks = serializers.ListField(
        child=serializers.DictField(child=serializers.CharField(allow_blank=True)),
        required=False,
        help_text="With `not_ready` and `?verbose`: `check`, `status` and `detail` of each",
    )


def problem_responses(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    """Return the error responses of an action; with 429 if there is 401, since keys are rate limited."""
    statuses = (*statuses, 429) if 401 in statuses else statuses
    return {
        (status, "application/problem+json"): OpenApiResponse(ProblemSerializer, HTTPStatus(status).phrase)
        for status in sorted(set(statuses))
    }


def request_example(value: object) -> Callable[[Body], Body]:
    """Give a serializer an example of the request."""
    return extend_schema_serializer(examples=[OpenApiExample("Request", value, request_only=True)])


def response_example(value: object) -> Callable[[Body], Body]:
    """Give a serializer an example of the response, with status 200 or 201."""
    example = OpenApiExample("Response", value, response_only=True)
    # `many=False`: the schema must not take a body with a list for a list.
    return extend_schema_serializer(many=False, examples=[example])


class Schema(AutoSchema):
    """Use the docstring's first line as summary, mark aliases as deprecated, and apply what `as_view` was given."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        if self.method.lower() in getattr(self.view, "undescribed", ()):
            return None
        if operation and (operation_id := getattr(self.view, "operation_id", None)):
            operation["operationId"] = operation_id
        if operation and "summary" not in operation:
            operation["summary"], _, more = operation.pop("description", "").partition("\n")
            operation |= {"description": more.strip()} if more.strip() else {}
        if operation and getattr(self.view, "deprecated_for", None):
            operation["operationId"] += "_alias"
            operation["deprecated"] = True
        return operation
