"""App configurations of the admin."""

import json
from typing import Any

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps  # not the class, which would be a second default here
from django.contrib.admin.utils import lookup_field
from django.db.models import Model
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold import fields

from runqy.core.environment.process import resume_collection


class AdminSiteConfig(AppConfig):
    """The parts that all admin pages share."""

    name = "runqy.admin_site"

    def ready(self) -> None:
        # The theme renders JSON with inline styles, which the policy forbids, and looks up each value five times.
        fields.prettify_json = render_json
        fields.lookup_field = cached_lookup_field


class RunqyAdminConfig(admin_apps.AdminConfig):
    """Django's admin with our site."""

    default = False
    default_site = "runqy.admin_site.site.RunqyAdminSite"

    def ready(self) -> None:
        super().ready()  # imports the admin of all apps, the last large part of a start
        resume_collection()


def cached_lookup_field(name: Any, row: Model, model_admin: Any = None) -> Any:
    """Return the result of `lookup_field`, cached on the row, which exists for one request."""
    found: dict[Any, Any] = vars(row).setdefault("_runqy_looked_up", {})
    if name not in found:
        found[name] = lookup_field(name, row, model_admin)
    return found[name]


def render_json(data: Any, encoder: type[json.JSONEncoder] | None) -> SafeString:
    return format_html('<pre class="runqy-json">{}</pre>', json.dumps(data, indent=2, ensure_ascii=False, cls=encoder))
