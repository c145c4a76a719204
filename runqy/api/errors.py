"""The one exit of errors: whatever goes wrong in the API leaves as application/problem+json."""

import sys
from collections.abc import Sequence
from typing import Any

import structlog
from django.core.exceptions import DisallowedHost
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from rest_framework import exceptions

from runqy.api.answers import problem_answer
from runqy.errors import (
    DatabaseUnavailable,
    InternalError,
    KeyInsufficient,
    KeyRequired,
    MediaTypeUnsupported,
    MethodRefused,
    PathNotFound,
    RequestInvalid,
    RequestTooLarge,
    RunqyError,
    TooManyRequests,
)
from runqy.staff import plain_pages
from runqy.staff.plain_pages import plain_page

log = structlog.get_logger(__name__)

_OF_FRAMEWORK = {
    error.status: error for error in (KeyRequired, KeyInsufficient, PathNotFound, MediaTypeUnsupported, TooManyRequests)
}
"""What errors of the framework's own are called here, by their status; any other is a request that makes no sense."""


def render_error(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Return the answer for an error in a view of DRF's own; None for a bug."""
    return error_answer(error, context["request"]._request, allowed=context["view"].allowed_methods)


def error_answer(error: Exception, request: HttpRequest, *, allowed: Sequence[str]) -> HttpResponse | None:
    """Return the answer for an error in a view; None for a bug, which Django logs and gives to `server_error`.

    `allowed` are the methods that the view has.
    """
    if isinstance(error, exceptions.MethodNotAllowed):
        answer = problem_answer(MethodRefused(f"{request.method} is not for this path."), request)
        answer["Allow"] = ", ".join(method for method in allowed if method != "OPTIONS")
        return answer
    known = _as_ours(error)
    if known is None:
        return None
    if known.status >= 500:
        log.warning("request_failed", code=known.code, detail=known.detail)
    return problem_answer(known, request)


def _as_ours(error: BaseException | None) -> RunqyError | None:
    """Return an error as one of ours, or None for a bug."""
    if isinstance(error, RunqyError):
        return error
    if isinstance(error, (OperationalError, InterfaceError)):
        return DatabaseUnavailable()
    if isinstance(error, exceptions.APIException):
        return _OF_FRAMEWORK.get(error.status_code, RequestInvalid)(str(error.detail))
    return None


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what Django itself refuses."""
    is_foreign = isinstance(exception, DisallowedHost)
    if _is_admin(request):
        return plain_page(request, plain_pages.WRONG_HOST if is_foreign else plain_pages.BAD_REQUEST)
    if is_foreign:
        return problem_answer(RequestInvalid("The request's Host is none of RUNQY_ALLOWED_HOSTS."), request)
    too_large = type(exception).__name__ == "RequestDataTooBig"
    return problem_answer(RequestTooLarge() if too_large else RequestInvalid(str(exception)), request)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what Django itself forbids."""
    if _is_admin(request):
        return plain_page(request, plain_pages.FORBIDDEN)
    return problem_answer(KeyInsufficient(), request)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer for a path that nothing is at."""
    if _is_admin(request):
        return plain_page(request, plain_pages.NOT_FOUND)
    return problem_answer(PathNotFound(f"Nothing is at {request.path[:200]}."), request)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer for a bug, or in the admin for a store that is away."""
    if not _is_admin(request):
        return problem_answer(InternalError(), request)
    known = _as_ours(sys.exc_info()[1])
    if isinstance(known, DatabaseUnavailable):
        return plain_page(request, plain_pages.DATABASE_AWAY)
    if known is not None and known.status == 503:
        return plain_page(request, plain_pages.away(known))
    return plain_page(request, plain_pages.BROKEN)


def _is_admin(request: HttpRequest) -> bool:
    """Tell whether a person looks at this in the admin."""
    return request.path.startswith("/admin/")
