"""API keys of the database."""

from django.db import models

from runqy.api_keys import Role


class ApiKey(models.Model):
    """An API key, of which only a hash is stored."""

    name = models.CharField(max_length=100, help_text="Who or what uses this key.")
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    queues = models.JSONField(default=list, blank=True, help_text="Names of the queues it is limited to; empty: all.")
    vaults = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text="Names of the vaults that a worker key is limited to; empty: all.",
    )
    rate_limit = models.CharField(
        max_length=16, blank=True, db_default="", help_text="As 600/m; empty: as RUNQY_RATE_LIMIT says."
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    created_by_kind = models.CharField(max_length=16, default="", db_default="", editable=False)
    """`runqy.audit.actors.ActorKind` of the actor that created it; empty for keys of earlier releases."""
    created_by = models.CharField(max_length=300, default="", db_default="", editable=False)
    """Name of that actor."""
    created_by_key = models.ForeignKey(
        "self", null=True, editable=False, on_delete=models.PROTECT, related_name="created_keys"
    )
    """The key that created it, if it has a row."""

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        """Return the name and the prefix of the key."""
        return f"{self.name} ({self.prefix}…)"
