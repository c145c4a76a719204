"""Calls the server's own WSGI application, as gunicorn does."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

from runqy.wsgi import application
from tests.support.environment import ADMIN_KEY


@dataclass
class Response:
    """The application's response."""

    status: int
    headers: dict[str, str]
    body: bytes


def call(method: str, path: str, body: bytes = b"", **environ: Any) -> Response:
    """Send a request with the admin's key; `environ` adds to it or changes it."""
    request: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        "HTTP_AUTHORIZATION": f"Bearer {ADMIN_KEY}",
    } | environ
    setup_testing_defaults(request)
    started: list[Any] = []
    chunks = application(request, lambda status, headers, *_: started.extend((status, headers)))
    content = b"" if method == "HEAD" else b"".join(chunks)  # servers send no body then
    getattr(chunks, "close", lambda: None)()
    return Response(int(started[0].split()[0]), dict(started[1]), content)
