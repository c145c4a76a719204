"""Actions and pages of queues in the admin, beside the form."""

from dataclasses import replace

import pytest
import redis as redis_py
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from queues.models import Queue, ReleaseState
from queues.queue_files import parse_queue_file
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.workers.heartbeats import write_heartbeat
from tests.queues.admin_pages import LIST, page_of, saved
from tests.queues.samples import spec
from tests.queues.stored import save_from_file
from tests.queues.test_operations import RICH
from tests.support.audit import audit_records
from tests.support.environment import ADMIN_KEY
from tests.support.releases import insert_release
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("configuration")


def test_a_queue_is_published_again(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved()
    redis.delete(keys.CONFIG_DOCUMENTS)

    staff.post(page_of(queue, "publish"))

    assert redis.hexists(keys.CONFIG_DOCUMENTS, "queue:mail")


def test_buttons_enable_disable_pause_and_resume(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved(spec("mail", "high:9", "low:1"))
    switch = page_of(queue, "switch")

    staff.post(switch, {"verb": "disable"})
    assert not Queue.objects.get().is_enabled
    staff.post(switch, {"verb": "enable"})
    assert Queue.objects.get().is_enabled
    staff.post(switch, {"verb": "pause"})
    assert redis.exists(QueueKeys("mail_high").paused, QueueKeys("mail_low").paused) == 2
    staff.post(switch, {"verb": "resume"})
    assert not redis.exists(QueueKeys("mail_high").paused)
    staff.post(switch, {"verb": "redeploy"})
    assert audit_records().filter(action="queue.redeployed").exists()
    assert staff.post(switch, {"verb": "explode"}).status_code == 404
    assert staff.get(switch).status_code == 405


def test_the_page_of_a_queue_says_what_becomes_of_its_newest_release(staff: Client, single_broker: Broker) -> None:
    queue = saved()
    for one in ("a", "b"):
        worker = replace(RECORD, worker_id=one, queue="mail", redis_queues={"mail": 1})
        single_broker.run(write_heartbeat(worker, now_ns=single_broker.now_ns()))
    insert_release(queue, "a" * 40)
    insert_release(queue, "", state=ReleaseState.ROLLING_OUT, live_at=None, workers=["a"])
    link = f'href="{reverse("admin:tasks_task_releases")}?queue=mail">2 '

    assert f"{link}is rolling out, on 1 of 2 workers</a>" in staff.get(page_of(queue)).content.decode()
    queue.releases.filter(number=2).update(state=ReleaseState.REVERTED)
    assert f"{link}was reverted</a>" in staff.get(page_of(queue)).content.decode()


@pytest.mark.parametrize(
    ("action", "is_done"),
    [
        ("disable", lambda redis: not Queue.objects.filter(is_enabled=True).exists()),
        ("pause", lambda redis: redis.exists(QueueKeys("mail").paused, QueueKeys("video").paused) == 2),
    ],
)
def test_actions_apply_to_all_selected_queues(staff: Client, redis: redis_py.Redis, action: str, is_done) -> None:
    selected = [saved().pk, saved(spec("video")).pk]

    response = staff.post(LIST, {"action": action, "_selected_action": selected}, follow=True)

    assert is_done(redis)
    assert "mail, video" in response.content.decode()


def test_exported_queues_load_to_the_same(staff: Client) -> None:
    queues = [saved(RICH), saved()]

    one = staff.get(page_of(queues[0], "export"))
    both = staff.post(LIST, {"action": "export", "_selected_action": [queue.pk for queue in queues]})

    assert one["Content-Disposition"] == 'attachment; filename="inference.yaml"'
    assert parse_queue_file(one.content, file="x").specs == (RICH,)
    assert parse_queue_file(both.content, file="x").specs == (RICH, spec("mail"))


def test_a_queue_is_deleted_only_if_its_name_is_entered(staff: Client) -> None:
    queue = saved()
    delete = page_of(queue, "delete")

    assert "delete_selected" not in staff.get(LIST).content.decode()
    refused = staff.post(delete, {"post": "yes", "confirmation": "mial"})
    assert "The name does not match." in refused.content.decode()
    assert Queue.objects.exists()


def test_a_queue_is_deleted_with_its_tasks(staff: Client, redis: redis_py.Redis) -> None:
    queue = saved()
    sent = {"queue": "mail", "data": {}}
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    Client().post("/queue/add", sent, content_type="application/json", headers=headers)
    content = staff.get(page_of(queue, "delete")).content.decode()
    assert "1 pending, 0 scheduled, 0 retry, 0 active" in content

    response = staff.post(page_of(queue, "delete"), {"confirmation": "mail"})

    assert response.status_code == 302
    assert not Queue.objects.exists()
    assert not redis.exists(QueueKeys("mail").pending)
    assert {record.action for record in audit_records()} >= {"queue.deleted", "queue.emptied"}
    assert LogEntry.objects.get().object_repr == "mail"


def test_the_page_warns_that_the_queue_file_overwrites_changes(staff: Client) -> None:
    queue = save_from_file(spec("mail"), "/q/mail.yaml")

    content = staff.get(page_of(queue)).content.decode()

    assert "/q/mail.yaml" in content
    assert "overwrite" in content
