"""Store, show and replace secrets of the server's own, such as those that sign webhooks."""

from datetime import timedelta

from django.utils import timezone

from vaults.models import SealedSecret

PREVIOUS_VALID_FOR = timedelta(hours=24)


def store_secret(purpose: str, text: str, *, is_shown: bool = False) -> SealedSecret:
    """Store a secret. Raise VaultLocked."""
    row = SealedSecret(purpose=purpose, shown_at=timezone.now() if is_shown else None)
    row.seal(text)
    row.save()
    return row


def show_once(row: SealedSecret) -> str | None:
    """Return a secret, and None if it was shown before. Raise VaultLocked, VaultUnavailable."""
    text = row.unseal()
    is_first = SealedSecret.objects.filter(pk=row.pk, shown_at=None).update(shown_at=timezone.now())
    return text if is_first else None


def replace_secret(row: SealedSecret, text: str) -> None:
    """Replace a secret, which is shown now. The one before stays valid for 24 hours. Raise VaultLocked."""
    # Locked and read again: of two rotations at once, the second one must keep the first one's secret as the old one.
    row = SealedSecret.objects.select_for_update().get(pk=row.pk)
    now = timezone.now()
    row.previous_ciphertext, row.previous_until, row.shown_at = row.ciphertext, now + PREVIOUS_VALID_FOR, now
    row.seal(text)
    row.save()
