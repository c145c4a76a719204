"""API keys, and what users choose for themselves."""

from django.conf import settings
from django.db import models

from runqy.accounts.validators import (
    MAX_NAME_LENGTH,
    validate_expiry,
    validate_key_name,
    validate_queue_names,
    validate_rate_limit,
    validate_time_zone,
    validate_vault_names,
)
from runqy.core.api_keys import Role


class ApiKey(models.Model):
    """An API key. Only its hash is stored."""

    name = models.CharField(
        max_length=MAX_NAME_LENGTH, validators=[validate_key_name], help_text="Who or what uses this key."
    )
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    queues = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_queue_names],
        help_text="Names of the queues it is limited to; empty: all.",
    )
    vaults = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_vault_names],
        help_text="Names of the vaults that a worker key is limited to; empty: all.",
    )
    rate_limit = models.CharField(
        max_length=16,
        blank=True,
        validators=[validate_rate_limit],
        help_text="For example 600/m. Empty: RUNQY_RATE_LIMIT.",
    )
    allow_shared_redis = models.BooleanField(
        default=False,
        help_text="Give workers that accept no Redis user of their own, such as Go's, the Redis password that all such "
        "workers share. It reaches the tasks of all queues, even after the key is revoked. Off: these workers are "
        "refused. Only applies to keys that are limited to queues.",
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True, validators=[validate_expiry])
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    created_by_kind = models.CharField(max_length=16, default="", editable=False)
    """The `runqy.audit.actors.ActorKind` of the actor that created it."""
    created_by = models.CharField(max_length=300, default="", editable=False)
    created_by_key = models.ForeignKey(
        "self", null=True, editable=False, on_delete=models.PROTECT, related_name="created_keys"
    )
    """The key that created it, if it has a row."""
    created_by_user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    """The user that created it; null also if that user was deleted."""
    is_personal = models.BooleanField(default=False, editable=False)
    """Whether the user that created it is also who uses it: the key ends when the user loses its rights."""

    class Meta:
        verbose_name = "API key"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(vaults=[]) | models.Q(role=Role.WORKER.value),
                name="only_worker_keys_are_limited_to_vaults",
                violation_error_message="Only keys with the role worker can be limited to vaults.",
            ),
            models.CheckConstraint(
                condition=models.Q(queues=[]) | ~models.Q(role=Role.METRICS.value),
                name="no_metrics_keys_are_limited_to_queues",
                violation_error_message="Keys with the role metrics cannot be limited to queues.",
            ),
        ]

    @property
    def full_name(self) -> str:
        """The name in the audit and for the API: that of a personal key begins with its user's."""
        if not self.is_personal:
            return self.name
        user = self.created_by_user.get_username() if self.created_by_user else self.created_by
        return f"{user}: {self.name}"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class UserSettings(models.Model):
    """What a user chose for the admin."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="+")
    time_zone = models.CharField(
        max_length=64,
        validators=[validate_time_zone],
        help_text="All times in the admin are in this zone: those that it shows and those that you type.",
    )

    class Meta:
        verbose_name_plural = "user settings"
        default_permissions = ()

    def __str__(self) -> str:
        return f"time zone {self.time_zone}"
