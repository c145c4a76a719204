"""The pages of schedules: list, form with preview, status with fires, pause and trigger."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from schedules.models import Fire, Schedule
from schedules.specs import Overlap
from tests.api.client import ApiClient
from tests.queues.samples import spec as queue_spec
from tests.schedules.conftest import Times
from tests.support.environment import ADMIN_KEY
from tests.support.staff import staff_client
from tests.support.tasks import take_one
from tests.tasks.task_helpers import succeed

pytestmark = pytest.mark.usefixtures("queues")
LIST = "/admin/schedules/schedule/"
FORM = {
    "name": "nightly",
    "queue": "mail",
    "payload": '{"n": 1}',
    "options": '{"max_retry": 0}',
    "cron": "30 2 * * mon",
    "every": "",
    "time_zone": "Europe/Berlin",
    "jitter": "0s",
    "starts_at": "",
    "ends_at": "",
    "overlap": "skip",
    "catch_up": "last",
    "catch_up_window": "2h",
}


def test_a_schedule_is_added_and_changed_in_the_form(admin_client: Client) -> None:
    added = admin_client.post(f"{LIST}add/", FORM, follow=True)
    row = Schedule.objects.get()
    due = row.next_due_at
    form = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()

    edited = {**FORM, "payload": '{"n": 2}', "version": row.version}
    changed = admin_client.post(f"{LIST}{row.pk}/change/", edited, follow=True)
    overwritten = admin_client.post(f"{LIST}{row.pk}/change/", {**edited, "payload": '{"n": 3}'})

    row.refresh_from_db()
    assert (added.status_code, changed.status_code) == (200, 200)
    assert f'name="version" value="{edited["version"]}"' in form
    assert "This schedule was changed by another user" in overwritten.content.decode()
    assert (row.cron, row.options, row.catch_up_window_s, row.source) == (
        "30 2 * * MON",
        {"max_retry": 0},
        7200,
        "admin",
    )
    assert (row.payload, row.next_due_at, row.created_by["kind"]) == ('{"n":2}', due, "user")
    assert "At 02:30 on Monday" in form
    assert 'value="2h"' in form


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": ""}, "One of cron and every is required."),
        ({"cron": "61 * * * *"}, "The minute &#x27;61&#x27; must be 0 to 59"),
        ({"payload": "{"}, "Must be JSON"),
        ({"options": '{"retries": 1}'}, "Unknown option."),
        ({"options": '{"timeout": "soon"}'}, "is not a duration"),
        ({"ends_at": "2026-01-01T00:00:00"}, "Is in the past, so it would never be due."),
        ({"catch_up_window": "23h"}, "Must be at most 22h, is 23h."),
    ],
)
def test_errors_stand_beside_their_fields(admin_client: Client, changes: dict[str, str], message: str) -> None:
    page = admin_client.post(f"{LIST}add/", FORM | changes)

    assert message in page.content.decode()
    assert not Schedule.objects.exists()


def test_all_errors_of_the_form_are_shown_at_once(admin_client: Client) -> None:
    to = PayloadField(name="to", type=(FieldType.STRING,), required=True)
    save_queue(spec=queue_spec("mail", input=(to,)), source=QueueSource.API)
    changes = {"cron": "61 * * * *", "time_zone": "Berlin", "jitter": "2h", "options": '{"retries": 1}'}

    form = admin_client.post(f"{LIST}add/", FORM | changes).context["adminform"].form
    broken = admin_client.post(f"{LIST}add/", FORM | changes | {"payload": "{"}).context["adminform"].form

    assert sorted(form.errors) == sorted(broken.errors) == ["cron", "jitter", "options", "payload", "time_zone"]
    assert form.errors["payload"] == ["payload.to: This field is required."]
    assert [str(error)[:12] for error in broken.errors["payload"]] == ["Must be JSON"]


def test_save_leads_to_the_page_of_the_schedule(admin_client: Client) -> None:
    added = admin_client.post(f"{LIST}add/", FORM)
    page = f"{LIST}{Schedule.objects.get().pk}/change/"
    changed = admin_client.post(page, FORM | {"version": Schedule.objects.get().version})

    assert [each["Location"] for each in (added, changed)] == [page, page]


def test_the_page_shows_fires_with_task_state_and_duration(
    single_broker: Broker, times: Times, save: Callable[..., Schedule], admin_client: Client
) -> None:
    row = save(cron="0 13 * * *", options={})
    times.run_in(hours=1)
    taken = take_one(single_broker, "mail")
    succeed(single_broker, taken, b"1")

    page = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()
    listed = admin_client.get(LIST).content.decode()
    deletion = admin_client.get(f"{LIST}{row.pk}/delete/").content.decode()

    assert taken.message.id in page.replace("<wbr>", "")
    assert "completed" in page
    assert page.count('data-label="UTC"') == 5
    times.move_to(times.now + timedelta(days=1))
    due = admin_client.get(LIST).content.decode()

    assert "At 13:00 every day" in listed
    assert [">due<" in text for text in (listed, due)] == [False, True]
    assert all("data-live=" in text for text in (page, listed))
    assert ("Fires: 1" in deletion, f"{row.pk} at " in deletion) == (True, False)


def test_all_fires_that_are_kept_are_reached_page_by_page(
    times: Times, save: Callable[..., Schedule], admin_client: Client
) -> None:
    row = save(cron="", every_s=60, overlap=Overlap.ALLOW)
    for _ in range(45):
        times.run_in(seconds=60)
    page, url, found = "", f"{LIST}{row.pk}/change/", list[str]()
    while url:
        page = admin_client.get(url).content.decode()
        found += re.findall(r'data-label="Due"><time datetime="([^"]+)"', page)
        older = re.search(r'href="(\?before=\d+)#fires">Older', page)
        url = f"{LIST}{row.pk}/change/{older[1]}" if older else ""

    path, listed = "/api/schedules/nightly/fires?limit=30", list[str]()
    while path:
        content = ApiClient(ADMIN_KEY).get(path).json()
        listed, path = listed + [fire["due_at"] for fire in content["fires"]], content["next"]

    due = [f"{fire.due_at:%Y-%m-%dT%H:%M:%SZ}" for fire in Fire.objects.order_by("-number")]
    assert (len(due), found, listed) == (45, due, due)
    assert ">Newest<" in page


def test_pause_trigger_and_unpause(times: Times, save: Callable[..., Schedule]) -> None:
    row, client = save(), staff_client("operator")
    url = f"{LIST}{row.pk}/run/"

    for form in ({"verb": "pause"}, {"verb": "pause", "reason": "holiday"}, {"verb": "trigger"}):
        client.post(url, form)
    row.refresh_from_db()
    paused = row.is_paused, row.paused_reason
    client.post(url, {"verb": "unpause"})

    row.refresh_from_db()
    assert paused == (True, "holiday")
    assert (row.is_paused, Fire.objects.get().state) == (False, "enqueued")


def test_the_preview_shows_words_and_times_or_what_is_wrong(admin_client: Client) -> None:
    good = admin_client.post(f"{LIST}preview/", FORM).content.decode()
    wrong = admin_client.post(f"{LIST}preview/", FORM | {"cron": "61 * * * *"}).content.decode()
    empty = admin_client.post(f"{LIST}preview/", FORM | {"cron": ""}).content.decode()

    assert "At 02:30 on Monday" in good
    assert good.count('data-label="For you"') == 5
    assert "cron: The minute" in wrong
    assert "appear here" in empty


def test_a_time_zone_that_no_longer_exists_is_a_problem_of_its_schedule_alone(
    times: Times, save: Callable[..., Schedule], admin_client: Client
) -> None:
    row, _ = save(cron="0 13 * * *"), save(name="other", cron="0 * * * *")
    times.run_in(hours=1)
    Schedule.objects.filter(pk=row.pk).update(time_zone="Europe/Atlantis")

    listed = ApiClient(ADMIN_KEY).get("/api/schedules").json()["schedules"]
    page = admin_client.get(f"{LIST}{row.pk}/change/").content.decode()
    times.run_in(hours=24)

    assert [len(each["next"]) for each in listed] == [0, 5]
    assert "13:00:00" in page
    assert Fire.objects.filter(schedule__name="other").count() == 2
    assert Schedule.objects.get(pk=row.pk).problem.startswith("time_zone: Must be a time zone")
