"""Vaults over HTTP."""
