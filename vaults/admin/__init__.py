"""Vaults in the admin; values of secrets can be entered, never read."""

from vaults.admin.vault_admin import VaultAdmin

__all__ = ["VaultAdmin"]
