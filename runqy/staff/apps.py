"""Registers what all admin pages share with Django."""

import json
from typing import Any

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps  # not the class, which would be a second default here
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold import fields


class StaffConfig(AppConfig):
    """The admin as staff see it."""

    name = "runqy.staff"
    label = "staff"

    def ready(self) -> None:
        """Let the theme show JSON as plain text: it would colour it by styles inline, which browsers refuse here."""
        fields.prettify_json = shown_json


class StaffAdminConfig(admin_apps.AdminConfig):
    """Django's admin, on our site."""

    default = False
    default_site = "runqy.staff.site.StaffSite"


def shown_json(data: Any, encoder: type[json.JSONEncoder] | None) -> SafeString:
    """Return a JSON value as staff read it where they may not change it."""
    return format_html('<pre class="runqy-json">{}</pre>', json.dumps(data, indent=2, ensure_ascii=False, cls=encoder))
