"""Vaults in the admin. Values of secrets can be entered, but never read."""

from vaults.admin.vault_admin import VaultAdmin

__all__ = ["VaultAdmin"]
