"""The rows of vaults and of their encrypted entries."""

from django.db import models

from vaults.crypto import Place


class Vault(models.Model):
    """A named set of secrets."""

    name = models.CharField(max_length=64, unique=True)
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        """Name the vault."""
        return self.name

    @property
    def etag(self) -> str:
        """Return what changes with everything about the vault, its entries too."""
        return f"{self.pk}-{self.updated_at.timestamp():.6f}"


class VaultEntry(models.Model):
    """One value, as ciphertext."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="entries")
    key = models.CharField(max_length=255)
    ciphertext = models.BinaryField()
    is_secret = models.BooleanField(default=True, help_text="Mask the value wherever it is shown.")
    version = models.BigIntegerField()
    """The revision of the configuration that set the value; never used twice, so that no older value fits."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["key"]
        verbose_name_plural = "vault entries"
        constraints = [models.UniqueConstraint(fields=["vault", "key"], name="one_entry_for_each_key")]

    def __str__(self) -> str:
        """Name the entry."""
        return self.key

    def place(self, vault: str) -> Place:
        """Return what the ciphertext is bound to, in a vault of this name."""
        return Place(vault, self.key, self.version)
