"""Rules for the names and values in vaults, which become environment variables of the workers' children."""

import re
from dataclasses import dataclass

VALUE_MAX_BYTES = 64 << 10
VAULT_RULE = "a vault's name has 1 to 64 letters, digits, `_` and `-`, and begins with a letter or digit"
VARIABLE_RULE = "a variable's name has letters, digits and `_`, and does not begin with a digit"

_VAULT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_REFERENCE = re.compile(rf"vault://(?P<vault>{_VAULT.pattern})/(?P<key>{_VARIABLE.pattern})", re.ASCII)
_RESERVED = frozenset({"PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONSTARTUP"})
_RESERVED_PREFIX = "RUNQY_"
_RESERVED_VAULTS = frozenset({"import"})


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a value is: an entry of a vault."""

    vault: str
    key: str

    def __str__(self) -> str:
        """Spell it as people do."""
        return f"vault://{self.vault}/{self.key}"


def problem_of_vault_name(name: str) -> str | None:
    """Return what is wrong with the name of a vault, or None."""
    if name in _RESERVED_VAULTS:
        return f"{name} is reserved: it is a path of the API"
    if _VAULT.fullmatch(name):
        return None
    return VAULT_RULE


def problem_of_description(text: str) -> str | None:
    """Return what is wrong with what people read about a vault, or None."""
    return "a description has no NUL, which no database keeps" if "\0" in text else None


def problem_of_variable(name: str) -> str | None:
    """Return what is wrong with the name of an entry or environment variable, or None."""
    if not _VARIABLE.fullmatch(name):
        return VARIABLE_RULE
    if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
        return f"{name} is reserved for the worker"
    return None


def problem_of_value(value: str) -> str | None:
    """Return what is wrong with the value of an entry or environment variable, or None; never shows it."""
    if not value:
        return "a value is not empty"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "a value is valid Unicode"
    if size > VALUE_MAX_BYTES:
        return "a value has at most 64 KiB"
    if "\0" in value:
        return "a value has no NUL, which no environment variable can hold"
    return None


def parse_reference(text: str) -> Reference | None:
    """Return the entry that `vault://<vault>/<key>` means, or None for any other text."""
    match = _REFERENCE.fullmatch(text)
    return Reference(match["vault"], match["key"]) if match else None


def masked(value: str) -> str:
    """Return a secret as it may be shown: below 12 characters nothing of it, else two at either end."""
    return "****" if len(value) < 12 else f"{value[:2]}****{value[-2:]}"
