"""Processes of maintenance are killed between each two steps: each task is enqueued once, each batch calls back."""

import os
import signal
import subprocess
import sys

import pytest

from batches.models import Batch
from runqy.broker.keys import QueueKeys
from tests.api.client import ApiClient
from tests.batches.conftest import Steps, body, counts
from tests.batches.killed_runner import kill_runners
from tests.support.database import database_variables
from tests.support.redis_client import redis_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KILLED_COLLECTOR = """
import os, signal, django
django.setup()
from runqy.redis_connection import get_broker
from tasks import ends
from tasks.duties import TaskEnds
ends.delete_ends = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
TaskEnds().run_tick(get_broker())
"""
"""A tick that is killed when its transaction was committed and Redis still holds the entries."""


def release(steps: Steps) -> None:
    """End the claim of the process that was killed, instead of waiting for that."""
    Batch.objects.filter(busy_until__isnull=False).update(busy_until=steps.broker.now())


def test_members_and_callback_are_enqueued_once(client: ApiClient, steps: Steps):
    batch_id = client.post("/batches", body(1, retention=0)).json()["id"]
    kill_runners("enqueue_intents:before", "enqueue_intents:after")
    steps.complete(*steps.take())  # its task is gone before its row says that it was enqueued
    kill_runners("enqueue_intents:after", "_mark:before", "_mark:after")
    release(steps)
    steps.enqueue()
    assert not redis_of(steps.broker).exists(QueueKeys(steps.work).pending)

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_COLLECTOR],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "runqy.settings"} | database_variables(),
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    steps.collect()
    assert counts(batch_id) == {"completed": 1}

    kill_runners("enqueue_intents:before", "enqueue_intents:after")
    (callback,) = steps.callbacks()
    steps.enqueue()
    assert steps.callbacks() == [callback]
    shown = client.get(f"/batches/{batch_id}").json()["callback"]
    assert (shown["state"], shown["task_id"]) == ("enqueued", callback)
