"""Django for pages that are generated from models, views and settings, without the settings of an own instance."""

import atexit
import os
import shutil
import tempfile

import django


def set_up_django() -> None:
    """Set up Django with default settings and a temporary home."""
    for name in [name for name in os.environ if name.startswith(("RUNQY_", "REDIS_", "DATABASE_", "QUEUE_WORKERS_"))]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="runqy-documentation-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(RUNQY_HOME=home, DJANGO_SETTINGS_MODULE="runqy.settings")
    django.setup()
