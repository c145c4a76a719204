"""The OpenAPI schema of what all viewsets share: problem responses, parameters, aliases and headers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from http import HTTPStatus
from typing import Any, TypeVar

from django.conf import settings
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_serializer,
)
from rest_framework import serializers

from runqy.api.permissions import HasRole, get_roles
from runqy.core.api_keys import Role

Action = TypeVar("Action", bound=Callable[..., Any])
Body = TypeVar("Body", bound=type[serializers.BaseSerializer[Any]])

PROBLEM_TYPE = "application/problem+json"

IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="The ETag of the version to change")
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", str, OpenApiParameter.HEADER, description="The ETag of a known version"
)

_HEADERS = {
    "X-Request-ID": ("The id of the request: the client's, or a generated one", {"type": "string"}),
    "Retry-After": ("Seconds until the request may be repeated", {"type": "integer", "minimum": 0}),
    "RateLimit": ("Requests that the key has left, if it is limited", {"type": "string"}),
    "RateLimit-Policy": ("Rate limit of the key, if it is limited", {"type": "string"}),
}
_BUSY = ("429", "503")


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


def operation(
    operation_id: str, responses: Any, *, errors: Iterable[int] = (), **described: Any
) -> Callable[[Action], Action]:
    """Describe an action for the schema: a decorator that passes what is `described` on to `extend_schema`.

    `responses` is the serializer of status 200, or those of each status. `errors` are the statuses of errors that do
    not follow from what else is known of the action. See `Schema`.
    """
    if not isinstance(responses, dict):
        responses = {200: responses}
    problems = {(status, PROBLEM_TYPE): describe_problem(status) for status in errors}
    return extend_schema(operation_id=operation_id, responses={**responses, **problems}, **described)


def describe_problem(status: int) -> OpenApiResponse:
    return OpenApiResponse(ProblemSerializer, HTTPStatus(status).phrase)


def request_example(value: object) -> Callable[[Body], Body]:
    """Give a serializer an example of the request."""
    return extend_schema_serializer(examples=[OpenApiExample("Request", value, request_only=True)])


def response_example(value: object) -> Callable[[Body], Body]:
    """Give a serializer an example of the response, with status 200 or 201."""
    example = OpenApiExample("Response", value, response_only=True)
    # `many=False`: the schema must not take a body with a list for a list.
    return extend_schema_serializer(many=False, examples=[example])


def name_members(auto_schema: AutoSchema, schema: dict[str, Any], **names: str) -> dict[str, Any]:
    """Make components of members of an object, once, and let it refer to them; `names` are those of the components.

    For bodies that no serializer describes.
    """
    properties = deepcopy(schema["properties"])  # hooks change components in place
    for member, name in names.items():
        component = ResolvedComponent(  # type: ignore[no-untyped-call]
            name=name, type=ResolvedComponent.SCHEMA, schema=properties[member], object=name
        )
        auto_schema.registry.register_on_missing(component)
        properties[member] = component.ref
    return {**schema, "properties": properties}


class Schema(AutoSchema):
    """Use the docstring's first line as summary, mark aliases as deprecated, and apply what `as_view` was given.

    Errors follow from the action: of keys and their limits, of the body and parameters, and that a server is busy.
    """

    def get_tags(self) -> list[str]:
        return [self.view.tag] if hasattr(self.view, "tag") else super().get_tags()

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        if self.method.lower() in getattr(self.view, "undescribed", ()):
            return None
        if operation:
            for status in self._list_errors(operation) - operation["responses"].keys():
                problem = describe_problem(int(status))
                response = self._get_response_for_code(problem, status, (PROBLEM_TYPE,))  # type: ignore[no-untyped-call]
                operation["responses"][status] = response
            operation["responses"] = dict(sorted(operation["responses"].items()))
        if operation and (operation_id := getattr(self.view, "operation_id", None)):
            operation["operationId"] = operation_id
        if operation and "summary" not in operation:
            operation["summary"], _, more = operation.pop("description", "").partition("\n")
            operation |= {"description": more.strip()} if more.strip() else {}
        if operation and getattr(self.view, "deprecated_for", None):
            operation["operationId"] += "_alias"
            operation["deprecated"] = True
        if operation and HasRole in self.view.permission_classes:
            operation["x-roles"] = sorted(
                {Role.ADMIN.value, *(role.value for role in get_roles(self.view, self.method))}
            )
        return operation

    def _list_errors(self, operation: Mapping[str, Any]) -> set[str]:
        parameters = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())}
        places = {place for place, _ in parameters}
        statuses = {"401", "429", "503"} if self.view.authentication_classes else set()
        has_role = HasRole in self.view.permission_classes
        statuses |= {"403"} if has_role and get_roles(self.view, self.method) | {Role.ADMIN} != set(Role) else set()
        statuses |= {"400", "413", "415"} if "requestBody" in operation else set()
        statuses |= {"400"} if "query" in places else set()
        statuses |= {"404"} if has_role and "path" in places else set()
        return statuses | ({"412"} if ("header", IF_MATCH.name) in parameters else set())


def share_enumerations(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Let parameters refer to the component of their choices: drf-spectacular does it for members of bodies only.

    An empty value, which means the default, is left out: generated clients have no name for it.
    """
    schemas = result["components"]["schemas"]
    names = {frozenset(schema["enum"]): name for name, schema in schemas.items() if "enum" in schema}
    for operation in _operations(result):
        for parameter in operation.get("parameters", ()):
            choices = frozenset(parameter["schema"].get("enum", ())) - {""}
            if name := names.get(choices):
                others = {k: v for k, v in parameter["schema"].items() if k not in ("enum", "type", "minLength")}
                parameter["schema"] = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], **others}
    return result


def add_servers(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    return {**result, "servers": [{"url": settings.RUNQY_PUBLIC_URL or "/"}]}


def describe_headers(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add the headers that responses have or may have."""
    headers = {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()}
    headers["X-Request-ID"]["required"] = headers["Retry-After"]["required"] = True
    result.setdefault("components", {})["headers"] = headers
    for operation in _operations(result):
        limited = ("RateLimit", "RateLimit-Policy") if operation.get("security") else ()
        for status, response in operation["responses"].items():
            names = ("X-Request-ID", *(("Retry-After",) if status in _BUSY else ()), *limited)
            response.setdefault("headers", {}).update({n: {"$ref": f"#/components/headers/{n}"} for n in names})
    return result


def _operations(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in result["paths"].values():
        yield from methods.values()
