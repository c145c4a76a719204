"""A Django project of the tests, on any version."""

import os

import django

SECRET_KEY = "of-tests"
USE_TZ = True
INSTALLED_APPS = ["runqy_sdk.django", "orders"] + ["django_tasks"] * (django.VERSION < (6, 0))
DATABASES = {
    name: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{os.environ['TEST_FOLDER']}/{name}.sqlite3"}
    for name in ("default", "other")
}
_BACKEND = {"BACKEND": "runqy_sdk.django.RunqyBackend", "QUEUES": ["default", "emails"]}
_OPTIONS = {"url": os.environ.get("TEST_URL"), "api_key": os.environ.get("TEST_KEY"), "timeout": 60, "retry_for": 60}
TASKS = {
    "default": _BACKEND | {"OPTIONS": _OPTIONS},
    "ranked": _BACKEND | {"QUEUES": ["ranked"], "OPTIONS": _OPTIONS | {"priorities": {"high": 50, "low": 0}}},
    "immediate": _BACKEND | {"OPTIONS": _OPTIONS | {"enqueue_on_commit": False}},
    "other": _BACKEND | {"OPTIONS": _OPTIONS | {"using": "other"}},
    "unreachable": _BACKEND | {"OPTIONS": {"url": "http://127.0.0.1:9", "api_key": "k", "retry_for": 0}},
}
