"""Unfold's settings: title, logo, style sheet, environment badge. Imports no Django, since settings.py imports it."""

from collections.abc import Callable, Mapping
from typing import Any

BADGES: Mapping[str, str] = {"production": "danger", "staging": "warning"}
"""Variants of the environment badge. Other environments are "info"."""


def get_unfold_settings(environment: str) -> dict[str, Any]:
    return {
        "SITE_TITLE": "runqy",
        "SITE_HEADER": "runqy",
        "SITE_URL": None,
        "SITE_LOGO": {"light": _file("logo-light.svg"), "dark": _file("logo-dark.svg")},
        "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("favicon.svg")}],
        "STYLES": [_file("admin.css")],
        "SCRIPTS": [_file("admin.js"), _file("keys.js")],
        "SHOW_BACK_BUTTON": True,
        "ENVIRONMENT_TITLE_PREFIX": f"[{environment}]" if environment else None,
        "LOGIN": {"form": "runqy.admin_site.forms.LoginForm"},
        "DASHBOARD_CALLBACK": "runqy.server.overview.views.add_overview",
        "ACCOUNT": {"navigation": "runqy.admin_site.site.get_account_links"},
        "SIDEBAR": {"navigation": "runqy.admin_site.site.get_navigation"},
    }


def get_environment_badge(environment: str) -> tuple[str, str] | None:
    """Return text and variant of the environment badge; None without an environment."""
    return (environment, BADGES.get(environment.lower(), "info")) if environment else None


def _file(name: str) -> Callable[[object], str]:
    return lambda _: f"/static/admin_site/{name}"  # a function, since unfold would import a string as a module
