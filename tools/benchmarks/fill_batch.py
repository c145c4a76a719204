"""Fill a batch in the environment's Redis and database for `tools.benchmarks.batches`, and print the times."""

import json
import statistics
import sys
import time
from collections.abc import Callable

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402

from batches.ends import store_ends  # noqa: E402
from batches.models import Batch, Member, MemberState  # noqa: E402
from batches.operations import add_to_batch, create_batch  # noqa: E402
from batches.runner import BatchWork  # noqa: E402
from queues.models import QueueSource  # noqa: E402
from queues.operations import save_queue  # noqa: E402
from runqy.broker.streams.ends import (  # noqa: E402
    EndOutcome,
    Notify,
    TaskEnd,
)
from runqy.broker.tasks.enqueue import NewTask  # noqa: E402
from runqy.redis_connection import get_broker  # noqa: E402
from tasks.ends import CollectedEnd  # noqa: E402
from tasks.enqueue_many import RequestedTasks  # noqa: E402
from tasks.transactions import write_transaction  # noqa: E402
from tests.queues.samples import spec  # noqa: E402

PART, ENDS, PAGES = 10_000, 1000, 20


def _collected(member: Member, number: int) -> CollectedEnd:
    end = TaskEnd(
        task_id=member.task_id,
        end_id=f"e{number}",
        outcome=EndOutcome.COMPLETED,
        ended_ns=10**18,
        notify=Notify(batch=member.batch_id),
    )
    return CollectedEnd(end=end, entry_id=f"1-{number}", redis_queue=member.redis_queue, queue="batches")


def _median_ms(call: Callable[[], object]) -> float:
    took = []
    for _ in range(PAGES):
        started_s = time.perf_counter()
        call()
        took.append(time.perf_counter() - started_s)
    return statistics.median(took) * 1000


if __name__ == "__main__":
    count = int(sys.argv[1])
    settings.DEBUG = False
    settings.ALLOWED_HOSTS = ["*"]
    broker = get_broker()
    broker.measure_clock()
    save_queue(spec=spec("batches"), source=QueueSource.API)
    batch = create_batch(broker, name="bench").batch
    jobs = RequestedTasks("batches", [NewTask.requested(queue="batches", payload=b'{"n":1}')] * PART)
    adds = []
    for _ in range(count // PART):
        started_s = time.perf_counter()
        add_to_batch(broker, batch.pk, jobs=jobs)
        adds.append(time.perf_counter() - started_s)
    started_s = time.perf_counter()
    BatchWork().run(broker)
    enqueued = Batch.objects.get(pk=batch.pk).counts[MemberState.ENQUEUED]
    enqueue_s = time.perf_counter() - started_s
    members = list(Member.objects.filter(batch=batch, state=MemberState.ENQUEUED).order_by("-pk")[:ENDS])
    started_s = time.perf_counter()
    with write_transaction():
        store_ends([_collected(member, number) for number, member in enumerate(members, 1)])
    ends_s = time.perf_counter() - started_s
    client = Client()
    client.force_login(User.objects.create_superuser("bench", password="x"))
    page = f"/admin/batches/batch/{batch.pk}/change/"
    assert client.get(page).status_code == 200
    print(
        json.dumps(
            {
                "members": Member.objects.filter(batch=batch).count(),
                "added_per_s": count / sum(adds),
                "first_add_s": adds[0],
                "last_add_s": adds[-1],
                "enqueued_per_s": enqueued / enqueue_s,
                "ends_per_s": len(members) / ends_s,
                "page_ms": _median_ms(lambda: client.get(page)),
            }
        )
    )
