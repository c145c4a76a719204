"""The base class of the API's viewsets."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar, cast
from urllib.parse import quote

from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from runqy.api.pagination import PagedList
from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.core.api_keys import STAFF_ROLES, Role
from runqy.errors import LengthRequired

T = TypeVar("T")

DEPRECATED_SINCE_S = 1795564800
"""2026-11-25. Aliases of documented paths are kept for released clients."""


class ApiViewSet(GenericViewSet[Any]):
    """A viewset for clients with an API key; `HasRole` reads its roles."""

    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    roles: ClassVar[frozenset[Role]] = frozenset()
    """Roles allowed in addition to administrators."""
    read_roles: ClassVar[frozenset[Role]] = STAFF_ROLES
    """Roles additionally allowed to use safe methods. Viewers must not be where payloads or results are returned."""
    action_roles: ClassVar[Mapping[str, frozenset[Role]]] = {}
    """Roles additionally allowed to use single actions."""
    allows_queue_scoped_keys: ClassVar[bool] = False
    """Whether actions apply `request.auth.queues`, so that administrators limited to queues are allowed."""
    deprecated_for: str = ""
    """On an alias, the template of the path that replaces it. Set by `as_view`."""
    operation_id: str = ""
    """The id of the operation in the schema, where several routes have the same action. Set by `as_view`."""
    undescribed: Collection[str] = ()
    """The methods of a route that the schema leaves out. Set by `as_view`."""

    @property
    def needs_confirmed_configuration(self) -> bool:
        """Whether `HasConfirmedConfiguration` refuses the request while the configuration is unconfirmed.

        False for actions that return no secrets and administer nothing.
        """
        return True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, authorise and throttle. Raise LengthRequired."""
        super().initial(request, *args, **kwargs)
        if request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH"):
            raise LengthRequired  # under WSGI a body of unknown length cannot be read

    def paginate_queryset(self, queryset: PagedList[T, Any]) -> list[T]:  # type: ignore[override]
        """Return the items of the requested page, by `pagination_class`. Raise RequestInvalid."""
        return super().paginate_queryset(queryset) or []  # type: ignore[arg-type]

    def throttled(self, request: Request, wait: float | None) -> NoReturn:
        """Raise Throttled with the reason of the throttle."""
        # The wait is set afterwards: DRF would append it to the message.
        error = Throttled(detail=cast(AuthenticatedRequest, request).rate_limit.refusal)
        error.wait = wait  # type: ignore[attr-defined] # the stubs lack it
        raise error

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Add the headers about rate limits and, on an alias, about its replacement."""
        final = super().finalize_response(request, response, *args, **kwargs)
        report: RateLimitReport | None = getattr(request, "rate_limit", None)
        for name, value in report.headers.items() if report else ():
            final[name] = value
        if self.deprecated_for:
            _mark_deprecated(final, self.deprecated_for, kwargs)
        return final


def _mark_deprecated(response: Response, template: str, path_arguments: Mapping[str, str]) -> None:
    """Add Deprecation (RFC 9745) and a Link to the path that replaces this one (RFC 8288)."""
    target = template.format_map({name: quote(value, safe=":") for name, value in path_arguments.items()})
    link = f'<{target}>; rel="successor-version"'
    response["Deprecation"] = f"@{DEPRECATED_SINCE_S}"
    response["Link"] = f"{response['Link']}, {link}" if response.has_header("Link") else link
