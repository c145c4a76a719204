"""Error responses: DRF's exception handler, and Django's handlers for errors outside of views."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from runqy.api.renderers import PROBLEM_TYPE, encode_json, problem, problem_headers, problem_response
from runqy.api.serializers import error_messages
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


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Return the problem response for an error in a view; None for a bug, which is logged and becomes a 500."""
    known = as_runqy_error(error)
    if known is None:
        return None
    set_rollback()
    log_unavailable(known)
    return problem_response(known)


def log_unavailable(error: RunqyError) -> None:
    """Log an error that is the server's, not the client's."""
    if error.status >= 500:
        log.warning("request_failed", code=error.code, detail=error.detail)


_EQUIVALENTS: tuple[tuple[tuple[type[Exception], ...], type[RunqyError]], ...] = (
    ((OperationalError, InterfaceError), DatabaseUnavailable),
    ((Http404, exceptions.NotFound), PathNotFound),
    ((exceptions.NotAuthenticated, exceptions.AuthenticationFailed), KeyRequired),
    ((PermissionDenied, exceptions.PermissionDenied), KeyInsufficient),
)


def as_runqy_error(error: BaseException | None) -> RunqyError | None:
    """Return an error of ours, Django's or DRF's as one of ours; None for a bug."""
    if isinstance(error, RunqyError):
        return error
    for types, equivalent in _EQUIVALENTS:
        if isinstance(error, types):
            return equivalent()
    return _from_drf(error) if isinstance(error, exceptions.APIException) else None


def _from_drf(error: exceptions.APIException) -> RunqyError:
    """Return what an error of DRF's that has a message of its own is here."""
    match error:
        case exceptions.MethodNotAllowed():
            return MethodRefused(str(error.detail).replace('"', ""))
        case exceptions.UnsupportedMediaType():
            return MediaTypeUnsupported(str(error.detail))
        case exceptions.Throttled():
            return TooManyRequests(retry_after_s=math.ceil(error.wait or 1))  # type: ignore[attr-defined]
        case exceptions.ValidationError():
            return RequestInvalid(errors=list(error_messages(error.detail)))
    return RequestInvalid(str(error.detail))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the response for a request that Django itself refuses."""
    is_host_unknown = isinstance(exception, DisallowedHost)
    if _is_admin(request) and isinstance(exception, RequestDataTooBig):
        return plain_page(request, plain_pages.TOO_LARGE)
    if _is_admin(request):
        return plain_page(request, plain_pages.WRONG_HOST if is_host_unknown else plain_pages.BAD_REQUEST)
    if is_host_unknown:
        return problem_http_response(RequestInvalid("The request's Host is not in RUNQY_ALLOWED_HOSTS."))
    if isinstance(exception, RequestDataTooBig):
        return problem_http_response(RequestTooLarge(str(exception)))
    return problem_http_response(RequestInvalid(str(exception)))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the response for a request that Django itself forbids."""
    if _is_admin(request):
        return plain_page(request, plain_pages.FORBIDDEN)
    return problem_http_response(KeyInsufficient())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the response for a path without a route."""
    if _is_admin(request):
        return plain_page(request, plain_pages.NOT_FOUND)
    return problem_http_response(PathNotFound(f"No route for {request.path[:200]}."))


def server_error(request: HttpRequest) -> HttpResponse:
    """Return the response for a bug, or in the admin for a store that is away."""
    if not _is_admin(request):
        return problem_http_response(InternalError())
    known = as_runqy_error(sys.exc_info()[1])
    if isinstance(known, DatabaseUnavailable):
        return plain_page(request, plain_pages.DATABASE_AWAY)
    if known is not None and known.status == 503:
        return plain_page(request, plain_pages.away(known))
    return plain_page(request, plain_pages.BROKEN)


def problem_http_response(error: RunqyError) -> HttpResponse:
    """Return the response for an error outside of DRF's views."""
    body = encode_json(problem(error))
    return HttpResponse(body, PROBLEM_TYPE, error.status, headers=problem_headers(error))


def _is_admin(request: HttpRequest) -> bool:
    return request.path.startswith("/admin/")
