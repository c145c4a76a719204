"""The product's settings with what makes a test process faster. Processes that tests start use runqy.settings."""

from runqy.settings import *  # noqa: F403
from runqy.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE, RUNQY_HOME
from tests.support.waiting import PATIENCE_S

INSTALLED_APPS = ["tests.support.fast_flush", *INSTALLED_APPS]
MIDDLEWARE = ["tests.support.secret_leaks.search_responses", *MIDDLEWARE]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a good one takes a quarter of a second a login
WHITENOISE_AUTOREFRESH = True  # look for a static file when it is requested, not for all of them with each client

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file: in memory, threads that write at once fail instead of waiting for the lock. Its log of writes stays small,
    # as it is searched after each test.
    DATABASES["default"]["TEST"] = {"NAME": str(RUNQY_HOME / "test.sqlite3")}
    DATABASES["default"]["OPTIONS"]["timeout"] = PATIENCE_S
    DATABASES["default"]["OPTIONS"]["init_command"] += "; PRAGMA wal_autocheckpoint=100; PRAGMA synchronous=OFF"
