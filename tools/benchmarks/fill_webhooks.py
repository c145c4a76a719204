"""Store an endpoint and messages to it that are due, for `tools.benchmarks.webhooks`, and print the endpoint's id."""

import sys

import django

django.setup()

from django.utils import timezone  # noqa: E402

from webhooks.messages import (  # noqa: E402
    build_delivery,
    message_id,
    save_deliveries,
)
from webhooks.models import EndpointEvent  # noqa: E402
from webhooks.operations import create_endpoint  # noqa: E402

PART = 10_000

if __name__ == "__main__":
    url, count = sys.argv[1], int(sys.argv[2])
    endpoint = create_endpoint(url=url, events=[EndpointEvent.BATCH_ENDED], is_enabled=False).row
    for start in range(0, count, PART):
        save_deliveries(
            build_delivery(
                endpoint=endpoint,
                message=message_id("bench", str(number)),
                event=EndpointEvent.TASK_COMPLETED,
                data={"id": f"task-{number}", "state": "completed", "payload": {"n": number}},
                now=timezone.now(),
            )
            for number in range(start, min(start + PART, count))
        )
    print(endpoint.pk)
