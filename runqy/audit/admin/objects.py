"""Finds the page of what a record is about, where it still exists."""

from collections.abc import Callable
from dataclasses import dataclass

from django.apps import apps
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse

from runqy.audit.models import AuditRecord


@dataclass(frozen=True, slots=True)
class _Page:
    """Where the admin shows objects of a kind, named by app and model: the audit imports no app above it."""

    app: str
    model: str
    column: str
    value: Callable[[str], str] = str
    """The column's value in the name that a record has."""


_PAGES = {
    "queue": _Page("queues", "queue", "name"),
    "vault": _Page("vaults", "vault", "name"),
    "vault_entry": _Page("vaults", "vault", "name", lambda name: name.partition("/")[0]),
    "api_key": _Page("accounts", "apikey", "pk", lambda name: name.partition(" ")[0]),
    "user": _Page("auth", "user", "username"),
    "group": _Page("auth", "group", "name"),
}


def find_object_url(record: AuditRecord) -> str:
    """Return the path of the object's page; empty where it is gone, or has no page."""
    page = _PAGES.get(record.object_kind)
    if page is None:
        return ""
    value = page.value(record.object_name)
    if page.column == "pk" and not (value.isascii() and value.isdigit()):
        return ""
    pk = apps.get_model(page.app, page.model)._default_manager.filter(**{page.column: value}).values_list("pk").first()
    if pk is None:
        return ""
    try:
        return reverse(f"admin:{page.app}_{page.model}_change", args=[quote(pk[0])])
    except NoReverseMatch:
        return ""
