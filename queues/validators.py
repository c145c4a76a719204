"""Validators of a queue's fields. The models declare them; serializers and forms take them from the models."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from queues.definitions import PayloadField
from queues.payload_schema import payload_field_errors
from queues.webhook_urls import normalize_hosts
from runqy.core.formats.names import QUEUE_NAME, QUEUE_NAME_MAX_LENGTH, QUEUE_NAME_RULE
from runqy.core.git.sources import normalize_branch, normalize_path, normalize_url
from vaults.entry_rules import parse_reference, value_error, variable_name_error
from vaults.validators import validate_vault_name

PRIORITY_MAX = 1000
DURATION_MAX_S = 10 * 365 * 24 * 3600

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

validate_queue_name = RegexValidator(rf"\A{QUEUE_NAME}\Z", QUEUE_NAME_RULE, flags=re.ASCII)


def validate_git_url(value: str) -> None:
    _validate_source(normalize_url, value)


def validate_branch(value: str) -> None:
    _validate_source(normalize_branch, value)


def validate_repository_path(value: str) -> None:
    """Require a relative path that stays inside the repository."""
    _validate_source(normalize_path, value)


def validate_command(value: str) -> None:
    """Require a command line that can be started without a shell."""
    if _CONTROL.search(value):
        raise ValidationError("Must be a single line.")
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValidationError(f"Invalid shell quoting: {error}.") from error
    if not words or not words[0]:
        raise ValidationError("Must start with a program.")


def validate_git_token(value: str) -> None:
    if value and parse_reference(value) is None:
        raise ValidationError("Must be vault://<vault>/<key>, not the token itself.")


def validate_env_vars(value: Mapping[str, str]) -> None:
    if errors := env_var_errors(value):
        raise ValidationError([f"{name}: {message}" for name, message in errors.items()])


def validate_vaults(value: Sequence[str]) -> None:
    for name in value:
        validate_vault_name(name)
    if repeated := repeated_indices(value):
        raise ValidationError(f"{value[repeated[0]]} is listed more than once.")


def validate_webhook_hosts(value: Sequence[str]) -> None:
    """Require a list as `normalize_hosts` returns it."""
    try:
        is_valid = isinstance(value, list) and normalize_hosts(map(str, value)) == value
    except ValueError as error:
        raise ValidationError(str(error)) from error
    if not is_valid:
        raise ValidationError("Must be a sorted list of hosts.")


def validate_payload_schema(value: Sequence[Mapping[str, Any]]) -> None:
    fields = [PayloadField.from_json(data) for data in value]
    for index, field in enumerate(fields):
        for key, message in payload_field_errors(field):
            raise ValidationError(f"[{index}].{key}: {message}")
    if repeated := repeated_indices([field.name for field in fields]):
        raise ValidationError(f"[{repeated[0]}].name: Another field has this name.")


def env_var_errors(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the errors of environment variables by name. Values may be empty."""
    found = {name: variable_name_error(name) or (value and value_error(value)) for name, value in variables.items()}
    return {name: message for name, message in found.items() if message}


def sub_queue_name_error(queue: str, sub_queue: str) -> str | None:
    """Return the error of a sub-queue's name in its queue, or None."""
    if len(queue) + 1 + len(sub_queue) > QUEUE_NAME_MAX_LENGTH:
        return f"Queue and sub-queue together have more than {QUEUE_NAME_MAX_LENGTH} characters."
    return None


def repeated_indices(names: Sequence[str]) -> list[int]:
    """Return the indices of names that have occurred before in the list."""
    return [index for index, name in enumerate(names) if name in names[:index]]


def _validate_source(normalize: Callable[[str], str], value: str) -> None:
    try:
        normalize(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error
