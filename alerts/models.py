"""Alerts and the settings of their rules."""

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from alerts.kinds import AlertKind, AlertLevel
from alerts.rules import RULES, RuleSettings
from runqy.core.formats import durations

SUBJECT_MAX_LENGTH = 255
NAME_MAX_LENGTH = 300


def alert_kind_choices() -> list[tuple[str, str]]:
    # A callable, so that a new kind needs no migration.
    return [(kind.value, RULES[kind].label) for kind in AlertKind]


class Alert(models.Model):
    """A condition that a rule observes, or has observed.

    It has three stages: the condition holds, but not yet for as long as its rule requires (`opened_at` is null); it is
    open; it is resolved.
    """

    kind = models.CharField(max_length=32, choices=alert_kind_choices)
    level = models.CharField(max_length=8, choices=[(level.value, level.value) for level in AlertLevel])
    subject = models.CharField(max_length=SUBJECT_MAX_LENGTH, blank=True)
    """The name of the queue or worker, or the replication id of a new master; empty for the whole installation."""
    queue = models.CharField(max_length=SUBJECT_MAX_LENGTH, blank=True)
    message = models.TextField()
    since = models.DateTimeField()
    """When the condition was first observed."""
    seen_at = models.DateTimeField()
    """When the condition was last observed, to within half a minute."""
    opened_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    """When a user took it on: nothing more is sent about it."""
    snoozed_until = models.DateTimeField(null=True)
    """Until when nothing is sent about it. Never set together with `acknowledged_at`."""
    note = models.TextField(blank=True)
    noted_by = models.CharField(max_length=NAME_MAX_LENGTH, blank=True)
    """Who acknowledged or snoozed it, with the note."""
    is_withheld = models.BooleanField(default=False)
    """Whether the message that it is open is to be sent when its snooze ends."""
    deliveries = models.ManyToManyField("webhooks.Delivery", related_name="alerts")
    """The messages about it. They are kept for a shorter time than alerts."""

    class Meta:
        default_permissions = ("view",)
        permissions = (("acknowledge_alert", "Can acknowledge and snooze alerts"),)
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject"], condition=Q(resolved_at__isnull=True), name="alert_unresolved_once"
            )
        ]
        indexes = [
            models.Index(fields=["resolved_at", "id"], name="alert_by_resolution"),
            models.Index(fields=["opened_at", "id"], name="alert_by_opening"),
            models.Index(fields=["queue", "kind"], condition=Q(resolved_at__isnull=True), name="alert_of_queue"),
        ]

    def __str__(self) -> str:
        return self.message

    @property
    def lasted(self) -> str:
        """How long the condition has lasted, or did: `12 min`."""
        return durations.humanize(((self.resolved_at or timezone.now()) - self.since).total_seconds())


class QueueSnooze(models.Model):
    """A time in which nothing is sent about a queue, also about alerts that open meanwhile."""

    queue = models.CharField(max_length=SUBJECT_MAX_LENGTH, primary_key=True)
    until = models.DateTimeField()
    note = models.TextField(blank=True)
    noted_by = models.CharField(max_length=NAME_MAX_LENGTH)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.queue


class KnownMaster(models.Model):
    """A master of Redis that was observed. Not stored in Redis, because a promoted replica may lack anything."""

    replication_id = models.CharField(max_length=64, primary_key=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.replication_id


class AlertRule(models.Model):
    """Settings of a rule that differ from its defaults: for one queue, or for all queues without settings of their
    own.
    """

    kind = models.CharField(max_length=32, choices=alert_kind_choices, verbose_name="rule")
    queue = models.ForeignKey(
        "queues.Queue",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Empty: for all queues without settings of their own.",
    )
    is_enabled = models.BooleanField(default=True, verbose_name="enabled", help_text="A disabled rule opens no alerts.")
    threshold = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="Empty: the default of the rule.",
    )
    for_s = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(86_400)],
        verbose_name="opens after",
        help_text="How long the condition must last: seconds, or a duration such as 10m; 0 opens the alert at once. "
        "Empty: the default of the rule.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "queue"],
                name="alertrule_once_a_queue",
                violation_error_message="This rule already has settings for this queue.",
            ),
            models.UniqueConstraint(
                fields=["kind"],
                condition=Q(queue__isnull=True),
                name="alertrule_once",
                violation_error_message="This rule already has settings for all queues.",
            ),
        ]
        ordering = ["kind", F("queue").asc(nulls_first=True)]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.queue or 'all queues'}"

    @property
    def audit_name(self) -> str:
        """The name in audit records: `failure_rate`, or `failure_rate/inference` for one queue."""
        return f"{self.kind}/{self.queue.name}" if self.queue else self.kind

    @property
    def settings(self) -> RuleSettings:
        """The settings. The defaults of the kind apply where none are stored."""
        defaults = RULES[AlertKind(self.kind)].defaults
        return RuleSettings(
            is_enabled=self.is_enabled,
            threshold=defaults.threshold if self.threshold is None else self.threshold,
            for_s=defaults.for_s if self.for_s is None else self.for_s,
        )

    def clean(self) -> None:
        info = RULES.get(AlertKind(self.kind)) if self.kind in set(AlertKind) else None
        if info is None:
            return
        if self.queue_id is not None and not info.is_per_queue:
            raise ValidationError({"queue": f"“{info.label}” has one setting for all queues. Leave this empty."})
        if self.threshold is not None and not info.threshold_unit:
            raise ValidationError({"threshold": f"“{info.label}” has no threshold. Leave this empty."})
