"""The ASGI application of the web processes."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")

from runqy.wsgi import application as wsgi_application  # noqa: I001 (sets Django up, before anything below)

from asgiref.typing import HTTPScope
from django.conf import settings

from runqy.dataplane.application import Application
from runqy.dataplane.bodies import BodyReader
from runqy.dataplane.drain import Drain
from runqy.dataplane.executors import BoundedExecutor
from runqy.readiness import begin_draining
from tasks.waiting import close_waiting_room

_SESSION = f"{settings.SESSION_COOKIE_NAME}=".encode()


def has_credentials(scope: HTTPScope) -> bool:
    """Return whether a request carries a key or a session, valid or not."""
    return any(
        name in (b"authorization", b"x-api-key") or (name == b"cookie" and _SESSION in value)
        for name, value in scope["headers"]
    )


def build_application() -> Application:
    """Return the application of this process."""
    drain = Drain(settings.RUNQY_DRAIN_S)
    drain.on_drain(begin_draining)
    drain.on_drain(close_waiting_room)
    return Application(
        wsgi=wsgi_application,
        bodies=BodyReader(max_bytes=settings.RUNQY_MAX_BODY_SIZE, memory_bytes=settings.RUNQY_BODY_MEMORY),
        drain=drain,
        django=BoundedExecutor("django", threads=settings.RUNQY_DJANGO_THREADS),
        is_authenticated=has_credentials,
    )


application = build_application()
