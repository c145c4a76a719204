"""Validators of the columns of API keys and settings."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils import timezone

from runqy.core.formats.durations import parse_rate
from runqy.core.formats.names import QUEUE_NAME, VAULT_NAME
from runqy.core.formats.timestamps import get_zone

KEY_NAME = r"(?! *$)[^\x00-\x1f\x7f]+"
"""The pattern of a key's name, without anchors: one line, not blank. `MAX_NAME_LENGTH` limits its length."""
MAX_NAME_LENGTH = 100
KEY_NAME_RULE = f"Must be one line of at most {MAX_NAME_LENGTH} characters, and not blank."
MAX_QUEUES = 1000
MAX_VAULTS = 1000
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)

validate_key_name = RegexValidator(rf"\A{KEY_NAME}\Z", KEY_NAME_RULE)


def validate_queue_names(names: Sequence[str]) -> None:
    if not _are_names(names, QUEUE_NAME, MAX_QUEUES):
        raise ValidationError(f"Must be a list of at most {MAX_QUEUES} queue names.")


def validate_vault_names(names: Sequence[str]) -> None:
    if not _are_names(names, VAULT_NAME, MAX_VAULTS):
        raise ValidationError(f"Must be a list of at most {MAX_VAULTS} vault names.")


def validate_rate_limit(text: str) -> None:
    try:
        parse_rate(text)
    except ValueError as error:
        raise ValidationError(f"{error}.") from error


def validate_expiry(expires_at: datetime) -> None:
    """Refuse a time in the past. Keys are validated only when they are created."""
    if not timezone.now() < expires_at < _LATEST:
        raise ValidationError("Must be in the future, and before the year 9999.")


def validate_time_zone(name: str) -> None:
    try:
        get_zone(name)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _are_names(names: object, pattern: str, max_length: int) -> bool:
    return (
        isinstance(names, list)
        and len(names) <= max_length
        and all(isinstance(name, str) and re.fullmatch(pattern, name) for name in names)
    )
