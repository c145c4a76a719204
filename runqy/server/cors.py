"""CORS in both planes: pages of RUNQY_CORS_ORIGINS may read responses."""

from corsheaders import middleware
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from runqy.server.security_headers import cors_headers


class CorsMiddleware(middleware.CorsMiddleware):
    """Let pages of RUNQY_CORS_ORIGINS read responses. Respond to their preflight requests with 204."""

    def check_preflight(self, request: HttpRequest) -> HttpResponseBase | None:
        return None if super().check_preflight(request) is None else HttpResponse(status=204)

    def add_response_headers(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Add the headers of both planes; to a response to a preflight request those of the package."""
        if request.method == "OPTIONS" or not self.is_enabled(request):
            return super().add_response_headers(request, response)
        headers = cors_headers(request.headers.get("Origin", ""))
        patch_vary_headers(response, (headers.pop("Vary"),))
        for name, value in headers.items():
            response[name] = value
        return response
