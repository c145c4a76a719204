"""The WSGI application, for any WSGI server."""

import os

from django.core.wsgi import get_wsgi_application

from runqy.core.environment.process import pause_collection
from runqy.core.telemetry.tracing import start_tracing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
start_tracing("runqy")  # before the middleware is made
pause_collection()
application = get_wsgi_application()

from runqy.api.checks import warn_of_short_keys  # noqa: E402 (Django is set up now)

warn_of_short_keys()
