"""Fills the instance of its environment for `benchmarks.admin`, and prints a session and the pages to request."""

import json

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402

from demo.crowd import crowd  # noqa: E402
from runqy.connection import get_broker  # noqa: E402
from tests.staff.crowd_pages import pages_in_crowd  # noqa: E402

if __name__ == "__main__":
    crowd(get_broker())
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    print(json.dumps({"session": client.cookies["runqy_session"].value, "pages": pages_in_crowd()}))
