"""Middleware of the admin: the time zone of its user."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from runqy.accounts.users import get_time_zone

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class TimeZoneMiddleware:
    """Make the zone of the user the current one in the admin. Everything else is in UTC."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith("/admin/") or not request.user.is_authenticated:
            return self.get_response(request)
        with timezone.override(get_time_zone(request.user)):
            return self.get_response(request)
