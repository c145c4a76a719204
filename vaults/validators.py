"""Validators of the columns of vaults and entries; their rules are in `entry_rules`, which workers use too."""

from collections.abc import Callable, Sequence

from django.core.exceptions import ValidationError

from vaults.entry_rules import description_error, normalize_git_hosts, variable_name_error, vault_name_error


def validate_vault_name(name: str) -> None:
    _raise_error_of(vault_name_error, name)


def validate_description(text: str) -> None:
    _raise_error_of(description_error, text)


def validate_entry_key(key: str) -> None:
    _raise_error_of(variable_name_error, key)


def validate_git_hosts(hosts: Sequence[str]) -> None:
    """Require a list as `normalize_git_hosts` returns it."""
    try:
        is_valid = isinstance(hosts, list) and normalize_git_hosts(map(str, hosts)) == hosts
    except ValueError as error:
        raise ValidationError(str(error)) from error
    if not is_valid:
        raise ValidationError("Must be a sorted list of hosts.")


def _raise_error_of(find_error: Callable[[str], str | None], text: str) -> None:
    if message := find_error(text):
        raise ValidationError(message)
