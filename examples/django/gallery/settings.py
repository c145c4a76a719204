"""Settings of the site, and of its tasks on the worker."""

import os
from pathlib import Path

import django

BASE_DIR = Path(__file__).parents[1]
# The site and the worker use the same database and files.
DATA_DIR = Path(os.environ.get("GALLERY_DATA", BASE_DIR / "data"))

SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-trying-it-out")
DEBUG = True
ROOT_URLCONF = "gallery.urls"
USE_TZ = True
INSTALLED_APPS = ["gallery", "runqy_sdk.django"]
if django.VERSION < (6, 0):
    INSTALLED_APPS += ["django_tasks"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "gallery.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MEDIA_ROOT = DATA_DIR / "media"
MEDIA_URL = "/media/"

TASKS = {
    "default": {
        "BACKEND": "runqy_sdk.django.RunqyBackend",
        "QUEUES": ["photos"],
        # Only the site needs them: a worker enqueues nothing.
        "OPTIONS": {"url": os.environ.get("RUNQY_SERVER_URL"), "api_key": os.environ.get("RUNQY_API_KEY")},
    }
}
