"""The WSGI application of the web processes, behind a gate that lets few threads compute at once."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from runqy.gate import open_gate

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")

application = open_gate(get_wsgi_application(), settings.RUNQY_RUNNABLE_THREADS)
