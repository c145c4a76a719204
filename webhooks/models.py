"""Endpoints that are told of what happened, and the messages that are sent to them."""

import hashlib
import json
import secrets

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from queues.definitions import ALL_QUEUES
from queues.webhook_urls import URL_MAX_LENGTH, parse_url
from runqy.core.formats.names import QUEUE_NAME_MAX_LENGTH
from vaults.models import SealedSecret

ENDPOINT_ID_LENGTH = 16
TARGET_MAX_LENGTH = 512
ERROR_MAX_LENGTH = 500
UNDELIVERED = Q(delivered_at__isnull=True, abandoned_at__isnull=True)
"""Deliveries that are still to be sent."""
ALERTS = "alerts"
"""The target of messages to RUNQY_ALERT_WEBHOOK_URL."""
ALERTS_OF_ENDPOINT = ":alerts"
"""Ends the target of alerts and test messages to an endpoint, which are sent before its other messages."""
IN_FLIGHT, IN_FLIGHT_MAX = 16, 100
TOLD = Q(is_enabled=True) | ~Q(disabled_reason="")
"""The endpoints that messages are made for: those that are enabled, or that the server disabled, which keep them."""


class EndpointEvent(models.TextChoices):
    """What an endpoint can be told of."""

    TASK_COMPLETED = "task.completed", "task completed"
    TASK_ARCHIVED = "task.archived", "task archived"
    BATCH_ENDED = "batch.ended", "batch ended"
    ALERT_OPENED = "alert.opened", "alert opened"
    ALERT_RESOLVED = "alert.resolved", "alert resolved"


class EndpointKind(models.TextChoices):
    """How messages are sent to an endpoint."""

    WEBHOOK = "webhook", "Webhook"
    SLACK = "slack", "Slack"
    EMAIL = "email", "E-mail"


class EndpointLevel(models.TextChoices):
    """The levels of alerts that an endpoint can be limited to."""

    WARNING = "warning"
    CRITICAL = "critical"


ALERT_EVENTS = (EndpointEvent.ALERT_OPENED, EndpointEvent.ALERT_RESOLVED)
TASK_EVENTS = (EndpointEvent.TASK_COMPLETED, EndpointEvent.TASK_ARCHIVED)
QUEUED_EVENTS = (*TASK_EVENTS, EndpointEvent.BATCH_ENDED)
"""Events of which there may be many: others are sent before them."""


CHANGED_BY_PEOPLE = (
    *("kind", "url", "recipients", "queues", "events", "levels", "include_result", "is_enabled", "in_flight"),
    "header_names",
)


def make_endpoint_id() -> str:
    return secrets.token_hex(ENDPOINT_ID_LENGTH // 2)


def validate_url(url: str) -> None:
    try:
        parse_url(url)
    except ValueError as error:
        raise ValidationError(str(error)) from error


class Endpoint(models.Model):
    """Where messages about tasks, batches and alerts go: a URL that receives them signed, a Slack channel, or
    recipients of e-mail.
    """

    id = models.CharField(primary_key=True, max_length=ENDPOINT_ID_LENGTH, default=make_endpoint_id, editable=False)
    kind = models.CharField(max_length=16, choices=EndpointKind, default=EndpointKind.WEBHOOK)
    url = models.CharField(
        max_length=URL_MAX_LENGTH,
        blank=True,
        validators=[validate_url],
        verbose_name="URL",
        help_text="Where messages are sent.",
    )
    """Empty for e-mail. Of Slack only the host: its URL is a secret."""
    recipients = models.JSONField(default=list, blank=True, help_text="Addresses that e-mails are sent to.")
    levels = models.JSONField(
        default=list, blank=True, help_text="Only alerts of these levels; empty: all. Other events have no level."
    )
    queues = models.JSONField(
        default=list, blank=True, help_text="Names of queues; empty: all, also those that are made later."
    )
    since = models.JSONField(default=dict, editable=False)
    """`PublishedEndpoint.since`: the revision from which on it covers each queue."""
    events = models.JSONField(default=list, help_text="What it is told of.")
    include_result = models.BooleanField(
        default=False, help_text="Send results of up to 20 KiB; larger ones are left out."
    )
    is_enabled = models.BooleanField(
        default=True,
        verbose_name="enabled",
        help_text="What ends while you have disabled it is not sent later either; what was due before waits.",
    )
    in_flight = models.PositiveSmallIntegerField(
        default=IN_FLIGHT,
        db_default=IN_FLIGHT,
        validators=[MinValueValidator(1), MaxValueValidator(IN_FLIGHT_MAX)],
        help_text="How many messages are sent to it at once; fewer while they fail.",
    )
    disabled_reason = models.CharField(max_length=ERROR_MAX_LENGTH, blank=True, editable=False)
    """Why the server disabled it; empty if a user did."""
    failing_since = models.DateTimeField(null=True, editable=False)
    """When the first of the attempts failed that all failed since."""
    dropped = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    """Messages that were dropped, as too many or too old, since the server disabled it."""
    secret = models.OneToOneField(SealedSecret, null=True, on_delete=models.PROTECT, related_name="+", editable=False)
    """What signs its messages; of Slack the URL; null for e-mail."""
    headers = models.OneToOneField(SealedSecret, null=True, on_delete=models.PROTECT, related_name="+", editable=False)
    """The values of its own headers, as a JSON object."""
    header_names = models.JSONField(default=list, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    created_by_kind = models.CharField(max_length=16, default="", editable=False)
    """The `runqy.audit.actors.ActorKind` of the actor that created it."""
    created_by = models.CharField(max_length=300, default="", editable=False)
    created_by_key = models.ForeignKey(
        "accounts.ApiKey", null=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    """The key that created it, if it has a row. Revoking it does not stop the endpoint."""

    class Meta:
        ordering = ["-created_at", "id"]
        verbose_name = "webhook endpoint"

    def __str__(self) -> str:
        return self.url or ", ".join(self.recipients)

    @property
    def is_disabled_by_server(self) -> bool:
        return not self.is_enabled and bool(self.disabled_reason)

    @property
    def version(self) -> str:
        """A digest of what is changed by people, and of whether the server disabled it: its ETag."""
        sealed = [self.headers, self.secret if self.kind == EndpointKind.SLACK else None]
        parts = [getattr(self, name) for name in CHANGED_BY_PEOPLE] + [self.disabled_reason]
        content = json.dumps([*parts, *(each and str(each.sealed_at) for each in sealed)])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def get_target(self, event: str) -> str:
        """Return the target of a message about an event."""
        return self.pk if event in QUEUED_EVENTS else f"{self.pk}{ALERTS_OF_ENDPOINT}"

    def covers(self, queue: str, *, revision: int) -> bool:
        """Return whether it covers a task of a queue that was enqueued with the configuration of a revision."""
        since = self.since.get(queue, self.since.get(ALL_QUEUES))
        return since is not None and since <= revision


class Delivery(models.Model):
    """A message to an endpoint, a task's own webhook, or that of the settings: what was sent, and what came back."""

    endpoint = models.ForeignKey(Endpoint, null=True, on_delete=models.CASCADE, related_name="deliveries")
    url = models.CharField(max_length=URL_MAX_LENGTH, blank=True)
    """Of a task's own webhook; empty for those of endpoints and of alerts, which may change."""
    target = models.CharField(max_length=TARGET_MAX_LENGTH)
    """What limits how many are in flight: the endpoint, with ALERTS_OF_ENDPOINT for what is not of QUEUED_EVENTS; the
    queue and host of a task's own webhook; or ALERTS.
    """
    message_id = models.CharField(max_length=64)
    event = models.CharField(max_length=64)
    queue = models.CharField(max_length=QUEUE_NAME_MAX_LENGTH, blank=True)
    task_id = models.CharField(max_length=255, blank=True)
    body = models.TextField()
    body_bytes = models.PositiveIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField()
    due_at = models.DateTimeField()
    """When it is sent, or sent again; of one that is in flight, when it is given to another process."""
    slot = models.PositiveSmallIntegerField(null=True)
    """Which of the target's attempts at once it is, while it is in flight."""
    after = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    """Another message that is sent before this one."""
    attempts = models.PositiveIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    abandoned_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    """When the last attempt ended."""
    status = models.PositiveSmallIntegerField(null=True)
    """Of the last response; null if there was none."""
    duration_ms = models.PositiveIntegerField(null=True)
    response = models.TextField(blank=True)
    """The first 4 KiB of the last response."""
    error = models.CharField(max_length=ERROR_MAX_LENGTH, blank=True)
    """Why the last attempt failed."""

    class Meta:
        default_permissions = ()
        verbose_name_plural = "deliveries"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["target", "message_id"], name="delivery_once"),
            models.UniqueConstraint(
                fields=["target", "slot"], condition=Q(slot__isnull=False), name="delivery_in_flight"
            ),
        ]
        indexes = [
            models.Index(fields=["target", "due_at"], condition=UNDELIVERED, name="delivery_due"),
            models.Index(fields=["endpoint", "-id"], name="delivery_of_endpoint"),
            models.Index(fields=["task_id"], name="delivery_of_task"),
            models.Index(fields=["created_at"], name="delivery_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.message_id}"

    @property
    def state(self) -> str:
        if self.delivered_at:
            return "delivered"
        return "failed" if self.abandoned_at else "pending"
