"""The WSGI application of the web processes."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")

application = get_wsgi_application()
get_resolver().url_patterns  # noqa: B018 (imports all views now, not while the first client waits)
