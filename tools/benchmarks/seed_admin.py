"""Fill the instance of the environment for `tools.benchmarks.admin`, and print a session and the pages to request."""

import json

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402

from runqy.redis_connection import get_broker  # noqa: E402
from tests.admin_site.populated_pages import populated_pages  # noqa: E402
from tools.demo.load_fixture import load_fixture  # noqa: E402

if __name__ == "__main__":
    load_fixture(get_broker())
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    print(json.dumps({"session": client.cookies["runqy_session"].value, "pages": populated_pages()}))
