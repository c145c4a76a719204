"""Shows staff what an operation or a query refused as a page of the admin."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from runqy.errors import RunqyError
from runqy.staff.plain_pages import away, plain_page

log = structlog.get_logger(__name__)

_HEADINGS = {404: "Not found", 409: "Not possible now"}

View = Callable[..., HttpResponse]


def shows_problems(view: View, site: AdminSite) -> View:
    """Return a view whose errors of ours become pages of the admin site."""

    def shown(request: HttpRequest, **named: str) -> HttpResponse:
        try:
            return view(request, **named)
        except RunqyError as error:
            return _page(request, error, site.each_context(request))

    return shown


def _page(request: HttpRequest, error: RunqyError, context: dict[str, Any]) -> HttpResponse:
    """Return the page for an error."""
    if error.status != 503:
        context |= {"title": _HEADINGS.get(error.status, "This cannot be understood"), "sentences": error.errors}
        return TemplateResponse(request, "staff/problem.html", context, status=error.status)
    log.warning("request_failed", code=error.code, detail=error.detail)
    return plain_page(request, replace(away(error), link=request.get_full_path(), link_text="Try again"))
