"""Error responses, as RFC 9457 describes them: DRF's exception handler, and Django's handlers outside of views."""

import math
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from runqy.admin_site import error_pages
from runqy.admin_site.error_pages import render_error_page
from runqy.api.renderers import encode_json
from runqy.api.serializers import error_messages
from runqy.core.database.errors import find_damage
from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import (
    ClientDisconnected,
    ConfigurationUnconfirmed,
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

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

log = structlog.get_logger(__name__)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Return the problem response for an error in a view; None for a bug, which is logged and becomes a 500."""
    if isinstance(error, ClientDisconnected):
        return Response(status=error.status)  # nobody receives it, but it is counted
    known = as_runqy_error(error)
    if known is None:
        return None
    # As DRF's own handler does: an error commits nothing.
    set_rollback()
    log_unavailable(known)
    return Response(problem(known), known.status, headers=problem_headers(known), content_type=PROBLEM_TYPE)


def log_unavailable(error: RunqyError) -> None:
    """Log an error of the server. Errors of clients are not logged."""
    if error.status >= 500:
        log.warning("request_failed", code=error.code, detail=str(error))


_EQUIVALENTS: tuple[tuple[tuple[type[Exception], ...], type[RunqyError]], ...] = (
    ((OperationalError, InterfaceError), DatabaseUnavailable),
    ((Http404, exceptions.NotFound), PathNotFound),
    ((exceptions.NotAuthenticated, exceptions.AuthenticationFailed), KeyRequired),
    ((PermissionDenied,), KeyInsufficient),
)


def as_runqy_error(error: BaseException | None) -> RunqyError | None:
    """Return the equivalent of an error of Django or DRF; a RunqyError unchanged; None for a bug."""
    if isinstance(error, RunqyError):
        return error
    if isinstance(error, DatabaseError) and (damage := find_damage(error, with_folder=False)):
        return DatabaseUnavailable(damage)
    for types, equivalent in _EQUIVALENTS:
        if isinstance(error, types):
            return equivalent()
    return _from_drf(error) if isinstance(error, exceptions.APIException) else None


def _from_drf(error: exceptions.APIException) -> RunqyError:
    match error:
        case exceptions.PermissionDenied():
            return _from_refusal(error.detail)
        case exceptions.MethodNotAllowed():
            return MethodRefused(str(error.detail).replace('"', ""))
        case exceptions.UnsupportedMediaType():
            return MediaTypeUnsupported(str(error.detail))
        case exceptions.Throttled():
            return TooManyRequests(str(error.detail), retry_after_s=math.ceil(error.wait or 1))  # type: ignore[attr-defined]
        case exceptions.ValidationError():
            return RequestInvalid(errors=list(error_messages(error.detail)))
    return RequestInvalid(str(error.detail))


def _from_refusal(detail: Any) -> RunqyError:
    refused = ConfigurationUnconfirmed if detail.code == ConfigurationUnconfirmed.code else KeyInsufficient
    # A permission class without a `message` leaves DRF's, which says less than the error's own.
    has_message = detail.code == refused.code and str(detail) != exceptions.PermissionDenied.default_detail
    return refused(str(detail) if has_message else None)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the response for a request that Django itself refuses."""
    is_host_unknown = isinstance(exception, DisallowedHost)
    if _is_admin(request) and isinstance(exception, RequestDataTooBig):
        return render_error_page(request, error_pages.TOO_LARGE)
    if isinstance(exception, SessionInterrupted) and _is_database_unavailable(exception):
        return render_error_page(request, error_pages.DATABASE_UNAVAILABLE)
    if _is_admin(request):
        return render_error_page(request, error_pages.WRONG_HOST if is_host_unknown else error_pages.BAD_REQUEST)
    if is_host_unknown:
        return problem_http_response(RequestInvalid("The Host header is not in RUNQY_ALLOWED_HOSTS."))
    if isinstance(exception, RequestDataTooBig):
        return problem_http_response(RequestTooLarge(str(exception)))
    return problem_http_response(RequestInvalid(str(exception)))


def _is_database_unavailable(exception: SessionInterrupted) -> bool:
    # Django raises SessionInterrupted for any error while a session is saved, as if it had been deleted.
    causes: list[BaseException] = [exception]
    while cause := causes[-1].__context__:
        causes.append(cause)
    return any(isinstance(as_runqy_error(cause), DatabaseUnavailable) for cause in causes)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the response for a request that Django itself forbids."""
    if _is_admin(request):
        return render_error_page(request, error_pages.FORBIDDEN)
    return problem_http_response(KeyInsufficient())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_admin(request):
        return render_error_page(request, error_pages.NOT_FOUND)
    return problem_http_response(PathNotFound(f"No route for {request.path[:200]}."))


def server_error(request: HttpRequest) -> HttpResponse:
    """Return the response for a bug. The admin also comes here when Redis or the database is unavailable."""
    if not _is_admin(request):
        return problem_http_response(InternalError())
    known = as_runqy_error(sys.exc_info()[1])
    if isinstance(known, DatabaseUnavailable):
        return render_error_page(request, error_pages.DATABASE_UNAVAILABLE)
    if known is not None and known.status == 503:
        return render_error_page(request, error_pages.store_unavailable(known))
    return render_error_page(request, error_pages.SERVER_ERROR)


def problem(error: RunqyError) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "errors": error.errors,
        "request_id": current_request_id(),
        **error.extension,
    }


def problem_headers(error: RunqyError) -> dict[str, str]:
    if isinstance(error, KeyRequired):
        return {"WWW-Authenticate": error.challenge}
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after_s)}
    return {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}


def problem_http_response(error: RunqyError) -> HttpResponse:
    """Return the response for an error outside DRF's views."""
    body = encode_json(problem(error))
    return HttpResponse(body, PROBLEM_TYPE, error.status, headers=problem_headers(error))


def _is_admin(request: HttpRequest) -> bool:
    return request.path.startswith("/admin/")
