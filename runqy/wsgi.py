"""The WSGI application: the whole product, behind any WSGI server."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
application = get_wsgi_application()

from runqy.api.checks import warn_of_short_keys  # noqa: E402 (Django is set up now)

warn_of_short_keys()
