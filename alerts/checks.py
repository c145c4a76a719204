"""System checks of the webhook's settings."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from alerts.webhook import decode_secret


@register(Tags.security)
def check_webhook(**_: Any) -> list[CheckMessage]:
    url, secret = settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET
    if not url:
        return []
    found: list[CheckMessage] = []
    if not _is_http_url(url):
        found.append(Error("RUNQY_ALERT_WEBHOOK_URL is not an HTTP URL.", id="runqy.E008"))
    try:
        decode_secret(secret)
    except ValueError:
        found.append(Error("RUNQY_ALERT_WEBHOOK_SECRET: the part after whsec_ is not base64.", id="runqy.E009"))
    if not secret:
        hint = "Set RUNQY_ALERT_WEBHOOK_SECRET; the webhook verifies the header webhook-signature with it."
        found.append(Warning("Messages to the alert webhook are not signed.", hint=hint, id="runqy.W010"))
    return found


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
