"""The WSGI application: the whole product, behind any WSGI server."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
application = get_wsgi_application()
