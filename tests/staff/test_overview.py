"""What the first page of the admin tells."""

from dataclasses import replace

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client

from demo.data import fill, make_configuration, make_users
from runqy.broker.broker import Broker
from runqy.staff.roles import grant_roles
from tests.publication.support import away
from workers.queries import OWN_CREDENTIALS_SHARED

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture(autouse=True)
def _roles(configuration: None, settings) -> None:
    grant_roles(apps)
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, username="worker", password="secret")


def enter(role: str | None) -> Client:
    """Return the browser of somebody who has a role, or none."""
    user = User.objects.create_user("somebody", is_staff=True)
    if role:
        user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def test_it_counts_what_there_is(single_broker: Broker) -> None:
    fill(single_broker)

    context = enter("viewer").get("/admin/").context

    assert {number.title: number.value for number in context["numbers"]} == {
        "Queues": 5,
        "Waiting": 203,
        "Running": 6,
        "Failed": 3,
        "Workers": 4,
        "Vaults": 3,
        "API keys": 4,
    }
    busiest = context["lines"][0]
    assert (busiest.name, busiest.pending, busiest.active, busiest.workers) == ("transcription", 150, 4, 1)


def test_it_says_what_to_look_at_the_worst_first(single_broker: Broker, settings) -> None:
    fill(single_broker)
    settings.RUNQY_VAULT_MASTER_KEY = ""

    concerns = enter("viewer").get("/admin/").context["concerns"]

    assert [concern.sentence for concern in concerns] == [
        "Workers cannot register for embeddings, image-tagging, invoices and 1 more: "
        "a vault is missing or does not open.",
        "Failed to start: gpu-rig-2:1002.",
        "Paused: embeddings.",
        "Vaults are off: the server has no master key (RUNQY_VAULT_MASTER_KEY).",
    ]


def test_it_warns_of_workers_with_the_servers_own_credentials(settings) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET

    concerns = enter("viewer").get("/admin/").context["concerns"]

    assert ("warning", OWN_CREDENTIALS_SHARED) in [(concern.level, concern.sentence) for concern in concerns]


def test_queues_whose_tasks_wait_without_a_worker_are_named(single_broker: Broker) -> None:
    fill(single_broker)
    single_broker.client.delete(*single_broker.client.keys("runqy:worker*"))

    concerns = enter("operator").get("/admin/").context["concerns"]

    assert "Tasks wait and no worker is ready for image-tagging, invoices, transcription." in [
        c.sentence for c in concerns
    ]


def test_without_redis_it_still_says_so(settings) -> None:
    make_users()
    make_configuration()
    settings.REDIS_TARGET = away()

    answer = enter("admin").get("/admin/")

    assert answer.status_code == 200
    assert "Redis cannot be reached" in answer.content.decode()


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("configurator", "/admin/queues/queue/add/"),
        ("viewer", "Somebody with the role configurator or admin can add one."),
        (None, "You have no role yet"),
    ],
)
def test_with_no_queue_it_says_what_to_do_next(role: str | None, said: str) -> None:
    assert said in enter(role).get("/admin/").content.decode()


def test_pages_of_apps_and_the_themes_search_are_no_pages(admin_client: Client) -> None:
    assert admin_client.get("/admin/queues/")["Location"] == "/admin/"
    assert admin_client.get("/admin/search/?s=queue").status_code == 404
