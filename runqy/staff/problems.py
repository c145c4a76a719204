"""Shows staff what an operation or a query refused, or that a store is away, as a page of the admin."""

from collections.abc import Callable
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from runqy.errors import RunqyError

log = structlog.get_logger(__name__)

_HEADINGS = {404: "It is not here", 409: "Not now", 503: "The server cannot tell at the moment"}
_RETRY_AFTER_S = "5"

View = Callable[..., HttpResponse]


def shows_problems(view: View, context_of: Callable[[HttpRequest], dict[str, Any]]) -> View:
    """Return a view whose errors of ours become pages, with the context that every page of the site is given."""

    def shown(request: HttpRequest, **named: str) -> HttpResponse:
        try:
            return view(request, **named)
        except RunqyError as error:
            return _page(request, error, context_of(request))

    return shown


def _page(request: HttpRequest, error: RunqyError, context: dict[str, Any]) -> HttpResponse:
    """Return the page for an error."""
    if error.status >= 500:
        log.warning("request_failed", code=error.code, detail=error.detail)
    context |= {
        "title": _HEADINGS.get(error.status, "That makes no sense here"),
        "sentences": error.errors,
        "is_away": error.status == 503,
    }
    page = TemplateResponse(request, "staff/problem.html", context, status=error.status)
    # Django would log a 503 as an error with a stack trace; that Redis is away is no bug.
    page._has_been_logged = error.status != 500  # type: ignore[attr-defined]
    if error.status == 503:
        page["Retry-After"] = _RETRY_AFTER_S
    return page
