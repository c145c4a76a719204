"""Registers what all admin pages share with Django."""

import json
from typing import Any

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps  # not the class, which would be a second default here
from django.contrib.admin.utils import lookup_field
from django.db.models import Model
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold import fields


class StaffConfig(AppConfig):
    """The admin as staff see it."""

    name = "runqy.staff"
    label = "staff"

    def ready(self) -> None:
        """Mend two things in the theme: coloured JSON has styles inline, and each value is looked up five times."""
        fields.prettify_json = shown_json
        fields.lookup_field = look_up_once


class StaffAdminConfig(admin_apps.AdminConfig):
    """Django's admin, on our site."""

    default = False
    default_site = "runqy.staff.site.StaffSite"


def look_up_once(name: Any, row: Model, model_admin: Any = None) -> Any:
    """Return what `lookup_field` finds for a page: a row lives for one request, and its values may ask stores."""
    found: dict[Any, Any] = vars(row).setdefault("_runqy_looked_up", {})
    if name not in found:
        found[name] = lookup_field(name, row, model_admin)
    return found[name]


def shown_json(data: Any, encoder: type[json.JSONEncoder] | None) -> SafeString:
    """Return a JSON value as staff read it where they may not change it."""
    return format_html('<pre class="runqy-json">{}</pre>', json.dumps(data, indent=2, ensure_ascii=False, cls=encoder))
