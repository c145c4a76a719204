"""The pages that `make screenshots` captures exist, in the states that their names promise."""

import pytest
from django.apps import apps
from django.test import Client

from demo.data import fill
from demo.page_states import full_pages
from runqy.admin_site.roles import create_role_groups
from runqy.broker.broker import Broker
from tests.support.workers import keep_records

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]
STATUSES = {"unknown": 404, "task-unknown": 404, "worker-unknown": 404, "browser-unknown-queue": 404}
STATUSES |= {"browser-invalid": 400, "browser-invalid-cursor": 400, "login": 302, "login-error": 302}


def test_every_page_of_a_busy_instance_can_be_shown(single_broker: Broker, admin_client: Client) -> None:
    create_role_groups(apps)
    fill(single_broker)
    keep_records(single_broker)

    wrong = {
        state.name: response.status_code
        for state in full_pages(single_broker)
        if (response := admin_client.get(state.path)).status_code != STATUSES.get(state.name, 200)
    }

    assert wrong == {}
