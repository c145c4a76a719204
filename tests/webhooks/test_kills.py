"""A process of maintenance is killed between a POST and its record: the message arrives again, with the same id."""

import os
import signal
import subprocess
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest
from django.utils import timezone
from standardwebhooks import Webhook

from tests.support.database import database_variables
from tests.support.waiting import PATIENCE_S
from tests.webhooks.receiver import LOOPBACK, Receiver, send_due
from tests.webhooks.test_sender import add_endpoint, add_messages
from webhooks.models import Delivery

pytestmark = [pytest.mark.fault, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

IN_FLIGHT = 4
SENDER = "import django; django.setup(); from webhooks.sender import Sender; Sender().run(600)"


def test_messages_whose_sender_is_killed_before_the_record_arrive_again_with_the_same_ids(receiver: Receiver) -> None:
    created = add_endpoint(receiver, in_flight=IN_FLIGHT)
    add_messages(created.row, *map(str, range(10)))
    variables = {"DJANGO_SETTINGS_MODULE": "runqy.settings", "RUNQY_WEBHOOK_NETWORKS": ",".join(map(str, LOOPBACK))}
    process = subprocess.Popen([sys.executable, "-c", SENDER], env=os.environ | variables | database_variables())

    def kill(_: BaseHTTPRequestHandler) -> None:
        if len(receiver.requests) == IN_FLIGHT:  # the others wait for their response
            process.kill()
        process.wait()

    receiver.respond = kill
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    claimed = Delivery.objects.filter(slot__isnull=False)
    assert (claimed.count(), Delivery.objects.filter(attempts=0).count()) == (IN_FLIGHT, 10)
    assert send_due() == 0  # the claims hold

    receiver.respond = receiver.respond_with_status
    claimed.update(due_at=timezone.now())  # the claims end, long after the others became due
    assert send_due() == 10

    arrived = Counter((headers["webhook-id"], body) for headers, body in receiver.requests)
    assert sorted(arrived.values()) == [1] * 6 + [2] * IN_FLIGHT
    for headers, body in receiver.requests:
        Webhook(created.secret).verify(body, headers)
