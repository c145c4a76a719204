"""Calls the server's own WSGI application, as gunicorn does."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.http import HttpResponse
from django.utils.datastructures import CaseInsensitiveMapping

from runqy.server.dataplane.protocol import MAX_HEAD_BYTES
from runqy.wsgi import application
from tests.api import planes
from tests.api.planes import SentRequest
from tests.support.environment import ADMIN_KEY

OF_THE_SERVER = {"CONTENT_LENGTH", "SCRIPT_NAME", "wsgi.input"}
"""What the server of the data plane checks or knows before its application is called; tests/dataplane has its tests."""


@dataclass
class Response:
    """The application's response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def call(method: str, path: str, body: bytes = b"", **environ: Any) -> Response:
    """Send a request with the admin's key; `environ` adds to it or changes it.

    With the fixture `each_plane` the data plane gets those that it serves.
    """
    environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_AUTHORIZATION": f"Bearer {ADMIN_KEY}"} | environ
    query = environ.get("QUERY_STRING", "")
    if environ.keys() & OF_THE_SERVER or len(query) > MAX_HEAD_BYTES:
        return call_wsgi(method, path, body, environ)
    request = SentRequest(
        method=method,
        path=f"{path}?{query}" if query else path,
        headers={
            name.removeprefix("HTTP_").replace("_", "-").title(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        },
        body=body,
        address=environ["REMOTE_ADDR"],
        scheme=environ.get("wsgi.url_scheme", "http"),
    )
    response = planes.send(request, lambda: as_http_response(call_wsgi(method, path, body, environ)))
    return Response(response.status_code, response.headers, response.content)


def call_wsgi(method: str, path: str, body: bytes, environ: dict[str, Any]) -> Response:
    """Send a request to the WSGI application."""
    request: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
    } | environ
    setup_testing_defaults(request)
    started: list[Any] = []
    chunks = application(request, lambda status, headers, *_: started.extend((status, headers)))
    content = b"" if method == "HEAD" else b"".join(chunks)  # servers send no body then
    getattr(chunks, "close", lambda: None)()
    return Response(int(started[0].split()[0]), CaseInsensitiveMapping(started[1]), content)


def as_http_response(response: Response) -> HttpResponse:
    """Return a response in the type of Django's test client."""
    return HttpResponse(response.body, status=response.status, headers=response.headers)
