"""What users choose for themselves: the time zone of the admin."""

from contextlib import suppress
from datetime import UTC, tzinfo
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from runqy.accounts.models import UserSettings
from runqy.audit.changes import diff
from runqy.audit.operations import record
from runqy.core.formats.time_zones import get_zone


def find_time_zone(user: Any) -> str:
    """Return the name of the zone that a user chose; empty if there is none."""
    return UserSettings.objects.filter(user=user).values_list("time_zone", flat=True).first() or ""


def get_time_zone(user: Any) -> tzinfo:
    """Return the zone in which a user reads times: UTC without a choice, or if the zone is no longer known."""
    with suppress(ValueError):
        return get_zone(find_time_zone(user))
    return UTC


def save_time_zone(user: User, name: str) -> None:
    before = find_time_zone(user)
    if before == name:
        return
    with transaction.atomic():
        UserSettings.objects.update_or_create(user=user, defaults={"time_zone": name})
        changes = diff({"time_zone": before}, {"time_zone": name})
        record(action="user.updated", object_kind="user", object_name=user.get_username(), changes=changes)


def remember_browser_zone(user: User, name: str) -> None:
    """Choose the zone of the browser for a user who has not chosen one."""
    with suppress(ValueError):
        UserSettings.objects.get_or_create(user=user, defaults={"time_zone": get_zone(name).key})
