"""System checks of the settings of the webhook of alerts, and of e-mail."""

from email.utils import parseaddr
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from queues.webhook_secrets import decode_secret
from queues.webhook_urls import parse_url


@register(Tags.security)
def check_alert_webhook(**_: Any) -> list[CheckMessage]:
    url, secret = settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET
    if not url:
        return []
    found: list[CheckMessage] = []
    try:
        parse_url(url, may_have_user=True)
    except ValueError:
        found.append(Error("RUNQY_ALERT_WEBHOOK_URL is not an HTTP URL.", id="runqy.E008"))
    if not secret:
        hint = "Set RUNQY_ALERT_WEBHOOK_SECRET; the webhook verifies the header webhook-signature with it."
        found.append(Warning("Messages to the alert webhook are not signed.", hint=hint, id="runqy.W010"))
        return found
    try:
        decode_secret(secret)
    except ValueError as error:
        hint = "Libraries of Standard Webhooks could not read it. `whsec_` and the base64 of 24 to 64 bytes is one."
        found.append(Error(f"RUNQY_ALERT_WEBHOOK_SECRET: {error}.", hint=hint, id="runqy.E009"))
    return found


@register(Tags.security)
def check_email(**_: Any) -> list[CheckMessage]:
    if not settings.EMAIL_HOST:
        return []
    found: list[CheckMessage] = []
    try:
        validate_email(parseaddr(settings.DEFAULT_FROM_EMAIL)[1])
    except ValidationError:
        hint = "Set DEFAULT_FROM_EMAIL to the sender, such as runqy <runqy@example.com>."
        found.append(Error("EMAIL_HOST is set, but DEFAULT_FROM_EMAIL is not an address.", hint=hint, id="runqy.E010"))
    if settings.EMAIL_HOST_PASSWORD and not (settings.EMAIL_USE_TLS or settings.EMAIL_USE_SSL):
        hint = "Set EMAIL_USE_TLS, or EMAIL_PORT to 465."
        found.append(Warning("The password of the mail server is sent unencrypted.", hint=hint, id="runqy.W012"))
    return found
