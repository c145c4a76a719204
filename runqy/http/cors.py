"""CORS in both planes: pages of RUNQY_CORS_ORIGINS may read responses."""

from corsheaders import middleware
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase


class CorsMiddleware(middleware.CorsMiddleware):
    """Let pages of RUNQY_CORS_ORIGINS read responses. Respond to their preflight requests with 204."""

    def check_preflight(self, request: HttpRequest) -> HttpResponseBase | None:
        return None if super().check_preflight(request) is None else HttpResponse(status=204)
