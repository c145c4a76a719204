"""Serves a view at the path of the reference and at the one that released clients know, which is deprecated."""

import re
from urllib.parse import quote

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from rest_framework.views import APIView

DEPRECATED_SINCE_S = 1795564800
"""2026-11-25: the aliases were never the documented paths."""

_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


def routes(route: str, view: type[APIView], *, name: str, alias: str) -> list[URLPattern]:
    """Return the patterns of a view at a path and at its alias, both spelled as Django does."""
    successor = "/" + _PARAMETER.sub(r"{\1}", route)
    return [
        path(route, view.as_view(), name=name),
        path(alias, view.as_view(successor=successor), name=f"{name}-alias"),
    ]


def mark_deprecated(response: HttpResponseBase, successor: str, arguments: dict[str, str]) -> None:
    """Say in an answer's headers that its path is deprecated (RFC 9745), and which one takes its place (RFC 8288)."""
    target = successor.format_map({name: quote(value, safe=":") for name, value in arguments.items()})
    link = f'<{target}>; rel="successor-version"'
    response["Deprecation"] = f"@{DEPRECATED_SINCE_S}"
    response["Link"] = f"{response['Link']}, {link}" if response.has_header("Link") else link
