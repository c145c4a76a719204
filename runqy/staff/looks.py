"""What the theme is told: our name, our marks, our style sheet, and which environment this is. Knows no Django."""

from collections.abc import Callable, Mapping
from typing import Any

BADGES: Mapping[str, str] = {"production": "danger", "staging": "warning"}
"""The colour of an environment's badge; any other name is blue."""


def theme(environment: str) -> dict[str, Any]:
    """Return the settings of unfold."""
    return {
        "SITE_TITLE": "runqy",
        "SITE_HEADER": "runqy",
        "SITE_URL": None,
        "SITE_LOGO": {"light": _file("logo-light.svg"), "dark": _file("logo-dark.svg")},
        "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("favicon.svg")}],
        "STYLES": [_file("staff.css")],
        "SCRIPTS": [_file("staff.js")],
        "SHOW_BACK_BUTTON": True,
        "ENVIRONMENT_TITLE_PREFIX": f"[{environment}]" if environment else None,
        "DASHBOARD_CALLBACK": "runqy.overview.add_overview",
        "SIDEBAR": {"navigation": "runqy.staff.navigation.navigation"},
    }


def badge(environment: str) -> tuple[str, str] | None:
    """Return the words and the colour of the badge that says where staff are."""
    return (environment, BADGES.get(environment.lower(), "info")) if environment else None


def _file(name: str) -> Callable[[object], str]:
    """Return what gives the address of one of our files; the theme would try to import a text as a module."""
    return lambda _: f"/static/staff/{name}"
