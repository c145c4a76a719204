"""Pages that show a secret once: that of an API key or a webhook."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse


def render_shown_once(model_admin: Any, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """Show a secret in this response only: a message would store it in the session, and a URL would leak it.

    `page_url` in the context is the URL that the browser shows, for a reload.
    """
    shown = {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, **context}
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return TemplateResponse(request, template, shown, headers=headers)


def render_rotation(
    model_admin: Any, request: HttpRequest, *, signed_by: str, page_url: str, previous_until: datetime | None
) -> HttpResponse:
    """Ask before the secret of a webhook is rotated. The form repeats the request's `verb`, with `confirmed`.

    `previous_until` is when the secret before the present one ends, if it is valid: a rotation ends it at once.
    """
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": "Rotate the secret?",
        "signed_by": signed_by,
        "page_url": page_url,
        "previous_until": previous_until,
    }
    return TemplateResponse(request, "admin_site/rotate_secret.html", context)


def render_webhook_secret(  # noqa: PLR0913 (what the page shows)
    model_admin: Any,
    request: HttpRequest,
    *,
    secret: str,
    signed_by: str,
    page_url: str,
    page_label: str,
    is_rotated: bool,
    hook_url: str = "",
) -> HttpResponse:
    """Show the secret of a webhook once. `signed_by` is what has it: an endpoint, or a queue.

    `hook_url` is the URL of a webhook that this server receives.
    """
    context = {
        "title": "Secret of the webhook",
        "secret": secret,
        "signed_by": signed_by,
        "page_url": page_url,
        "page_label": page_label,
        "is_rotated": is_rotated,
        "hook_url": hook_url,
    }
    return render_shown_once(model_admin, request, "admin_site/webhook_secret.html", context)
