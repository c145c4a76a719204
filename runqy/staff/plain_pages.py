"""Tells people in the admin what went wrong, on a page that needs neither session nor store."""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from runqy.errors import RunqyError
from runqy.request_ids import current_request_id

INDEX = "/admin/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPage:
    """What a page of its own says."""

    status: int
    title: str
    sentence: str
    retry_after_s: int | None = None
    link: str = INDEX
    link_text: str = "Back to the overview"


BAD_REQUEST = PlainPage(
    status=400, title="This cannot be understood", sentence="Something in the address or the form makes no sense."
)
TOO_LARGE = PlainPage(
    status=413, title="The form is too large", sentence="Nothing was saved. The limit is RUNQY_MAX_BODY_SIZE."
)
WRONG_HOST = PlainPage(
    status=400,
    title="The server does not answer to this name",
    sentence="It answers to those in its setting RUNQY_ALLOWED_HOSTS.",
)
FORBIDDEN = PlainPage(
    status=403,
    title="Your role does not allow this",
    sentence="If you need it for your work, ask an administrator for another role.",
)
NOT_FOUND = PlainPage(
    status=404, title="Nothing is here", sentence="The page is gone, or the address has a mistake in it."
)
BROKEN = PlainPage(
    status=500,
    title="Something went wrong",
    sentence="It is a mistake of ours. The server's log says what happened, under the number of this request.",
)
FORM_EXPIRED = PlainPage(
    status=403,
    title="This form is too old",
    sentence="Nothing was saved. Go back, reload the page and send it again. If that does not help, allow cookies, and "
    "check that RUNQY_CSRF_ORIGINS has the address you see.",
)
DATABASE_AWAY = PlainPage(
    status=503,
    title="The database cannot be reached",
    sentence="Tasks and workers go on; nothing can be changed here until it is back. Try again in a moment.",
    retry_after_s=5,
)


def away(error: RunqyError) -> PlainPage:
    """Return what is said of something else that is needed and not there."""
    return PlainPage(status=503, title="Not at the moment", sentence=f"{error.detail} Try again soon.", retry_after_s=5)


def plain_page(request: HttpRequest, page: PlainPage) -> HttpResponse:
    """Return the page."""
    context = {name: getattr(page, name) for name in ("status", "title", "sentence", "link", "link_text")}
    context["request_id"] = current_request_id()
    response = render(request, "staff/plain.html", context, status=page.status)
    response["Cache-Control"] = "no-store"
    if page.retry_after_s is not None:
        response["Retry-After"] = str(page.retry_after_s)
    return response


def form_expired(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form whose token is missing or another one's."""
    return plain_page(request, FORM_EXPIRED)


def too_many_logins(request: HttpRequest, retry_after_s: int) -> HttpResponse:
    """Answer somebody who has tried too many passwords."""
    minutes = max(round(retry_after_s / 60), 1)
    wait = "a minute" if minutes == 1 else f"{minutes} minutes"
    page = PlainPage(
        status=429,
        title="Too many failed logins",
        sentence=f"Logging in from this address is locked for {wait}. From other addresses it works as before.",
        retry_after_s=retry_after_s,
        link=f"{INDEX}login/",
        link_text="Back to the login",
    )
    return plain_page(request, page)
