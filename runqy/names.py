"""The patterns of names that several packages check, without anchors."""

QUEUE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
VAULT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
"""An environment variable, and the key of a vault's entry."""
