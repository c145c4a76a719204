"""Who may do what to queues in the admin."""

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client

from tests.queues.admin_pages import ADD, LIST, as_role, page_of, saved
from tests.queues.test_saving import RICH

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
@pytest.mark.parametrize(("place", "method", "least"), VIEWS)
def test_each_role_may_do_only_its_own(role: str, place: str, method: str, least: str) -> None:
    queue = saved()
    place, _, verb = place.partition(":")
    url = place if place.startswith("/") else page_of(queue, place)

    answer = getattr(as_role(role), method)(url, {"verb": verb} if verb else {})

    may = RANKS.index(role) >= RANKS.index(least)
    assert (answer.status_code != 403) == may


def test_where_the_admin_is_read_only_nobody_pauses_a_queue(staff: Client, settings: Any) -> None:
    settings.ASYNQ_READ_ONLY = True
    queue = saved()

    assert 'value="pause"' not in staff.get(page_of(queue)).content.decode()
    assert staff.post(page_of(queue, "switch"), {"verb": "pause"}).status_code == 403
    assert staff.post(page_of(queue, "switch"), {"verb": "disable"}).status_code == 302


def test_a_viewer_reads_all_but_values_of_variables() -> None:
    queue = saved(replace(RICH, deployment=replace(RICH.deployment, env_vars={"NAME_OF_ONE": "value-of-one"})))
    viewer = as_role("viewer")

    shown = viewer.get(page_of(queue)).content.decode()

    assert "NAME_OF_ONE=****" in shown
    assert "value-of-one" not in shown
    assert "high: 10" in shown
    assert "Start command" in shown
    assert "default <code>7</code>" in shown
    assert "max_retry: 0" in shown
    assert 'name="_save"' not in shown
    assert "Pause" not in shown
    assert viewer.get(LIST).status_code == 200


@pytest.mark.parametrize(
    "lookup", ["env_vars__icontains=value", "env_vars__NAME_OF_ONE__startswith=v", "env_vars__NAME_OF_ONE__gt=a"]
)
def test_a_viewer_does_not_find_values_of_variables_out_by_lookups_of_the_list(lookup: str) -> None:
    queue = saved(replace(RICH, deployment=replace(RICH.deployment, env_vars={"NAME_OF_ONE": "value-of-one"})))
    viewer = as_role("viewer")

    refused = viewer.get(f"{LIST}?{lookup}")

    assert refused.status_code == 400
    assert queue.name in viewer.get(f"{LIST}?is_enabled__exact=1&mode__exact={queue.mode}").content.decode()
