"""Names that several packages check: their patterns, without anchors, and the messages about others."""

QUEUE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
QUEUE_NAME_RULE = "Use 1 to 128 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit."

VAULT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
VAULT_NAME_RULE = "Use 1 to 64 letters, digits, `_` and `-`, beginning with a letter or a digit."

VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
"""An environment variable, and the key of a vault's entry."""
VARIABLE_NAME_RULE = "Use letters, digits and `_`, not beginning with a digit."
