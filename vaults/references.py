"""Lists what queues may refer to: vaults by name, with the names of their entries. Opens none, so needs no key."""

from vaults.models import Vault
from vaults.names import Reference

__all__ = ["list_references"]


def list_references() -> dict[str, list[Reference]]:
    """Return all vaults by name, in order, each with references to its entries."""
    found: dict[str, list[Reference]] = {}
    for vault, key in Vault.objects.order_by("name", "entries__key").values_list("name", "entries__key"):
        found.setdefault(vault, []).extend([Reference(vault, key)] if key else [])
    return found
