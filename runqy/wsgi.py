"""The WSGI application of the web processes."""

import os
from typing import TYPE_CHECKING, Any

import django
from django.core.handlers.wsgi import WSGIHandler
from django.urls import get_resolver, set_script_prefix
from django.utils.log import log_response

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
django.setup(set_prefix=False)

from runqy.api.database import begin_request, end_request  # noqa: E402 (Django is set up by now)
from runqy.api.headers import list_headers  # noqa: E402 (likewise)
from runqy.middleware import LONG_WAY  # noqa: E402 (likewise)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Handler(WSGIHandler):
    """Django's handler, but for the API without its signals and without names that no view asks for.

    What listens to these signals is called directly. Together they take as long as reading a body and its key.
    """

    _is_prefixed = False
    """A request came by a path with a prefix, so that threads may remember one."""

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Any:
        """Answer a request."""
        if environ.get("PATH_INFO", "").startswith(LONG_WAY):
            try:
                return super().__call__(environ, start_response)
            finally:
                if environ.get("SCRIPT_NAME"):
                    self._is_prefixed = True
        begin_request()
        try:
            return self._answer(environ, start_response)
        finally:
            end_request()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        """Answer a request of the API, whose answers are in memory as a whole."""
        request = self.request_class(environ)
        if request.META["SCRIPT_NAME"] or self._is_prefixed:
            self._is_prefixed = True
            set_script_prefix(request.META["SCRIPT_NAME"])
        response = self._middleware_chain(request)  # type: ignore[attr-defined]
        if response.status_code >= 400:
            log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
        headers = list_headers(response)
        headers += [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
        start_response(f"{response.status_code} {response.reason_phrase}", headers)
        request.close()
        return [response.content]


application = Handler()
get_resolver().url_patterns  # noqa: B018 (imports all views now, not while the first client waits)
