"""Fill the instance of the environment for `tools.benchmarks.dashboards`, and print a session for each dashboard."""

import json
import sys
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.test import Client  # noqa: E402

from runqy.redis_connection import get_broker  # noqa: E402
from tasks.history.rollups import (  # noqa: E402
    MINUTE_S,
    RollupDelta,
    add_to_histogram,
    add_to_rollups,
    floor_time,
)
from tools.demo.load_fixture import load_fixture  # noqa: E402

MINUTES = 90


def fill_history(queues: int) -> None:
    """Store the minutes that the charts show, each with some runs and samples."""
    now = datetime.now(UTC)
    starts = [floor_time(now - timedelta(minutes=back), MINUTE_S) for back in range(MINUTES)]
    for number in range(queues):
        delta = RollupDelta(f"queue-{number:04}")
        delta.counts.update({"completed": 55, "failed": 1, "retried": 3})
        for histogram, typical_ms in ((delta.wait_histogram, 400), (delta.run_histogram, 2500)):
            for factor in (0.5, 0.7, 1, 1.5, 2, 6):
                add_to_histogram(histogram, int(typical_ms * factor), 10)
        add_to_rollups({(f"{delta.queue}_high", start): delta for start in starts})


def log_in(name: str) -> str:
    """Return the session of a user with the role operator."""
    user = User.objects.create_user(name, is_staff=True)
    user.groups.add(Group.objects.get(name="operator"))
    client = Client()
    client.force_login(user)
    return client.cookies["runqy_session"].value


if __name__ == "__main__":
    queues, workers, dashboards = (int(word) for word in sys.argv[1:])
    load_fixture(get_broker(), queues=queues, workers=workers, records=0)
    fill_history(queues)
    print(json.dumps([log_in(f"operator-{number}") for number in range(dashboards)]))
