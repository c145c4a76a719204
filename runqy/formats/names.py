"""The patterns of names that several packages check, without anchors, and the messages about invalid names."""

QUEUE_NAME_MAX_LENGTH = 128
QUEUE_NAME = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{QUEUE_NAME_MAX_LENGTH - 1}}}"
QUEUE_NAME_RULE = (
    f"Use 1 to {QUEUE_NAME_MAX_LENGTH} letters, digits, `.`, `_` and `-`, beginning with a letter or a digit."
)

VAULT_NAME_MAX_LENGTH = 64
VAULT_NAME = rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{VAULT_NAME_MAX_LENGTH - 1}}}"
VAULT_NAME_RULE = f"Use 1 to {VAULT_NAME_MAX_LENGTH} letters, digits, `_` and `-`, beginning with a letter or a digit."

VARIABLE_NAME_MAX_LENGTH = 255
VARIABLE_NAME = rf"[A-Za-z_][A-Za-z0-9_]{{0,{VARIABLE_NAME_MAX_LENGTH - 1}}}"
"""The name of an environment variable, and so the key of a vault's entry."""
VARIABLE_NAME_RULE = "Use letters, digits and `_`, not beginning with a digit."
