"""Error pages of the admin. Most need neither session, database nor Redis."""

from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.response import TemplateResponse

from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import OutcomeUnknown, RunqyError

log = structlog.get_logger(__name__)

INDEX = "/admin/"
_HEADINGS = {404: "Not found", 409: "Conflict"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPage:
    """An error page that needs neither session, database nor Redis."""

    status: int
    title: str
    message: str
    retry_after_s: int | None = None
    link: str = INDEX
    link_text: str = "Back to the overview"
    has_overview: bool = False
    """Whether the overview can be shown."""


BAD_REQUEST = ErrorPage(status=400, title="Bad request", message="The URL or the form is invalid.")
TOO_LARGE = ErrorPage(
    status=413, title="The form is too large", message="Nothing was saved. The limit is RUNQY_MAX_BODY_SIZE."
)
WRONG_HOST = ErrorPage(
    status=400,
    title="Unknown host name",
    message="The host name of this URL is not in RUNQY_ALLOWED_HOSTS.",
)
FORBIDDEN = ErrorPage(
    status=403,
    title="Permission denied",
    message="Your role does not allow this. Ask an administrator if you need access.",
)
NOT_FOUND = ErrorPage(status=404, title="Page not found", message="The page does not exist, or was deleted.")
SERVER_ERROR = ErrorPage(
    status=500,
    title="Server error",
    message="An error occurred. The server's log has the details under this request id.",
)
FORM_EXPIRED = ErrorPage(
    status=403,
    title="This form has expired",
    message="Nothing was saved. Go back, reload the page and submit it again. If that does not help, allow cookies, "
    "and check that RUNQY_CSRF_ORIGINS contains the address of this site.",
)
DATABASE_UNAVAILABLE = ErrorPage(
    status=503,
    title="The database cannot be reached",
    message="Tasks and workers are not affected. Nothing can be changed here until it is available. Try again soon.",
    retry_after_s=5,
)


def store_unavailable(error: RunqyError) -> ErrorPage:
    """Return the page for an unavailable service other than the database."""
    return ErrorPage(
        status=503,
        title="Temporarily unavailable",
        message="Redis did not confirm the change. Check whether it was made before you repeat it."
        if isinstance(error, OutcomeUnknown)
        else f"{error.detail} Try again soon.",
        retry_after_s=5,
        has_overview=True,
    )


def render_error_page(request: HttpRequest, page: ErrorPage) -> HttpResponse:
    """Return the response with a page. The page of a 503 has a link to try again."""
    if page.status == 503 and request.method == "GET":
        page = replace(page, link=request.get_full_path(), link_text="Try again")
    context = {
        name: getattr(page, name) for name in ("status", "title", "message", "link", "link_text", "has_overview")
    }
    context["request_id"] = current_request_id()
    response = render(request, "admin_site/error_page.html", context, status=page.status)
    response["Cache-Control"] = "no-store"
    if page.retry_after_s is not None:
        response["Retry-After"] = str(page.retry_after_s)
    return response


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the response to a missing or wrong CSRF token. This is the setting CSRF_FAILURE_VIEW."""
    return render_error_page(request, FORM_EXPIRED)


def too_many_logins(request: HttpRequest, retry_after_s: int) -> HttpResponse:
    minutes = max(round(retry_after_s / 60), 1)
    wait = "a minute" if minutes == 1 else f"{minutes} minutes"
    page = ErrorPage(
        status=429,
        title="Too many failed logins",
        message=f"Log in again in {wait}. Logins from other addresses are not affected.",
        retry_after_s=retry_after_s,
        link=f"{INDEX}login/",
        link_text="Back to the login",
    )
    return render_error_page(request, page)


def render_error(request: HttpRequest, error: RunqyError, context: dict[str, Any]) -> HttpResponse:
    if error.status != 503:
        context |= {"title": _HEADINGS.get(error.status, "Bad request"), "problems": error.errors}
        if "cursor" in request.GET:
            query = request.GET.copy()
            del query["cursor"]
            context["first_page_url"] = f"{request.path}?{query.urlencode()}"
        return TemplateResponse(request, "admin_site/request_error.html", context, status=error.status)
    log.warning("request_failed", code=error.code, detail=str(error))
    return render_error_page(request, store_unavailable(error))
