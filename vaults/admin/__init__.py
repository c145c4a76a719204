"""Vaults in the admin. Values of secrets can be entered, but never read."""

from django.contrib import admin

from vaults.admin.vault_admin import VaultAdmin
from vaults.models import Vault

admin.site.register(Vault, VaultAdmin)
