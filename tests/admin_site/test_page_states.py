"""The pages that `make screenshots` captures exist, in the states that their names promise."""

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from tests.support.staff import create_roles
from tests.support.workers import keep_records
from tools.demo.data import fill
from tools.demo.page_states import full_pages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]
STATUSES = {"unknown": 404, "task-unknown": 404, "worker-unknown": 404, "browser-unknown-queue": 404}
SEARCH = (b'type="search"', b"admin_site/keys.js")
"""What a page has whose search a key goes to."""
STATUSES |= {"browser-invalid": 400, "browser-invalid-cursor": 400, "login": 302, "login-error": 302}


def test_every_page_of_a_busy_instance_can_be_shown(single_broker: Broker, admin_client: Client) -> None:
    create_roles()
    fill(single_broker)
    keep_records(single_broker)

    states = {state.name: state.path for state in full_pages(single_broker)}
    shown = {name: admin_client.get(path) for name, path in states.items()}

    statuses = {name: response.status_code for name, response in shown.items()}
    assert statuses == {name: STATUSES.get(name, 200) for name in shown}
    pages = [name for name, path in states.items() if path.startswith("/admin/") and statuses[name] == 200]
    # tests/browser/test_keys.py shows that a slash goes there
    assert [name for name in pages if not all(part in shown[name].content for part in SEARCH)] == []
