"""The permissions of roles on queues in the admin."""

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client

from tests.queues.admin_pages import ADD, LIST, page_of, saved
from tests.queues.test_operations import RICH
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration")


VIEWS = [
    (ADD, "post", "configurator"),
    ("change", "post", "configurator"),
    ("switch:disable", "post", "configurator"),
    ("switch:pause", "post", "operator"),
    ("publish", "post", "configurator"),
    ("delete", "get", "configurator"),
    ("export", "get", "configurator"),
    (f"{LIST}check/", "post", "configurator"),
    (f"{LIST}example/", "post", "configurator"),
]
RANKS = ["viewer", "operator", "configurator", "admin"]


@pytest.mark.parametrize("role", RANKS)
@pytest.mark.parametrize(("path", "method", "least"), VIEWS)
def test_each_role_has_its_permissions(role: str, path: str, method: str, least: str) -> None:
    queue = saved()
    path, _, verb = path.partition(":")
    url = path if path.startswith("/") else page_of(queue, path)

    response = getattr(staff_client(role), method)(url, {"verb": verb} if verb else {})

    may = RANKS.index(role) >= RANKS.index(least)
    assert (response.status_code != 403) == may


def test_queues_cannot_be_paused_in_a_read_only_admin(staff: Client, settings: Any) -> None:
    settings.ASYNQ_READ_ONLY = True
    queue = saved()

    assert 'value="pause"' not in staff.get(page_of(queue)).content.decode()
    assert staff.post(page_of(queue, "switch"), {"verb": "pause"}).status_code == 403
    assert staff.post(page_of(queue, "switch"), {"verb": "disable"}).status_code == 302


def test_a_viewer_reads_everything_except_values_of_variables() -> None:
    queue = saved(replace(RICH, deployment=replace(RICH.deployment, env_vars={"NAME_OF_ONE": "value-of-one"})))
    viewer = staff_client("viewer")

    content = viewer.get(page_of(queue)).content.decode()

    assert "NAME_OF_ONE=****" in content
    assert "value-of-one" not in content
    assert ">high<" in content.replace("\n", "").replace(" ", "")
    assert "Start command" in content
    assert "default <code>7</code>" in content
    assert "max_retry: 0" in content
    assert 'name="_save"' not in content
    assert "Pause" not in content
    assert viewer.get(LIST).status_code == 200


@pytest.mark.parametrize(
    "lookup", ["env_vars__icontains=value", "env_vars__NAME_OF_ONE__startswith=v", "env_vars__NAME_OF_ONE__gt=a"]
)
def test_list_lookups_do_not_reveal_values_of_variables(lookup: str, caplog: pytest.LogCaptureFixture) -> None:
    queue = saved(replace(RICH, deployment=replace(RICH.deployment, env_vars={"NAME_OF_ONE": "value-of-one"})))
    viewer = staff_client("viewer")

    refused = viewer.get(f"{LIST}?{lookup}")

    assert refused.status_code == 400
    assert not [record for record in caplog.records if record.exc_info]
    assert queue.name in viewer.get(f"{LIST}?is_enabled=1&mode__exact={queue.mode}").content.decode()
