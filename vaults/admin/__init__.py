"""Vaults in the admin. Values go in; those of secrets never come out."""

from vaults.admin.vaults import VaultAdmin

__all__ = ["VaultAdmin"]
