"""Gives the keyring that the settings describe."""

from functools import lru_cache

from django.conf import settings

from runqy.errors import VaultLocked
from vaults.crypto import Keyring

__all__ = ["get_keyring"]


def get_keyring() -> Keyring:
    """Return the master keys. Raises VaultLocked when there are none."""
    if not settings.RUNQY_VAULT_MASTER_KEY:
        raise VaultLocked
    return _parsed(settings.RUNQY_VAULT_MASTER_KEY)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Keyring:
    """Read the setting once."""
    return Keyring.parse(text)
