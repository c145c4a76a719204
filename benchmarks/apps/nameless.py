"""The server's own application without request ids: what naming requests costs."""

from django.http import HttpRequest

from runqy import request_ids, settings

settings.MIDDLEWARE.remove("runqy.middleware.NamedRequests")


def no_id(_request: HttpRequest) -> str:
    """Return the name of a request that has none."""
    return ""


def no_headers(_request: HttpRequest) -> dict[str, str]:
    """Return what a task carries on of a request that has no name."""
    return {}


# Before anything imports them by name.
request_ids.request_id, request_ids.trace_headers = no_id, no_headers

from runqy.asgi import application  # noqa: E402

__all__ = ["application"]
