"""A task has one outcome, wherever it is shown: docs/reference/states.md. The worker is a real one."""

from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from tasks.history.record import RunRecorder
from tasks.models import TaskRun
from tests.metrics.pages import read_page, value
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.redis_client import redis_of
from tests.support.staff import staff_client
from tests.tasks.admin.pages import LIST, change
from tests.workers.conftest import StartWorker
from tests.workers.processes import add_task, wait_for_state

pytestmark = pytest.mark.slow

QUEUE = "mail"


@pytest.mark.usefixtures("configuration")
def test_pages_filters_history_and_metrics_agree_on_how_tasks_ended(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    store_queues(spec(QUEUE))
    waited = add_task(single_broker, 1)
    redis_of(single_broker).hset(QueueKeys(QUEUE).task(waited), "pending_since", 10**18)
    single_broker.run(archive_all_timed_out(single_broker, {QUEUE: 5}))
    worker = start_worker()
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")
    hang = {"do": "hang", "started": str(tmp_path / "started")}
    late = {add_task(single_broker, 1, deadline_s=single_broker.now_s() - 1)}
    for seconds in (4, 20, 80):  # on a busy machine it may not have begun before
        deadline_s = single_broker.now_s() + seconds
        cut_off = add_task(single_broker, hang, deadline_s=deadline_s, timeout_s=600, max_retry=0)
        if wait_for_state(single_broker, cut_off, "archived", "retry", within_s=150).attempts:
            break
        late.add(cut_off)
    slow = add_task(single_broker, hang, timeout_s=1, max_retry=0)
    failed = add_task(single_broker, {"do": "fail", "text": "timed out after 1 h"})
    expected = dict.fromkeys((waited, *late), "Expired")
    expected |= {cut_off: "Timed out", slow: "Timed out", failed: "Failed"}
    records = {task_id: wait_for_state(single_broker, task_id, "archived", "retry") for task_id in expected}
    viewer = staff_client("viewer")

    def read_pages() -> list[dict[str, str]]:
        rows = [
            viewer.get(f"{LIST}?{query}").context[name]
            for query, name in ((f"queue={QUEUE}&state=archived", "rows"), ("state=archived&text=", "tasks"))
        ]
        titles = {task_id: viewer.get(change(task_id, QUEUE)).context["state"] for task_id in expected}
        return [{row.record.id: row.reason for row in part} for part in rows] + [
            {task_id: title.removeprefix("Archived: ") for task_id, title in titles.items()}
        ]

    before = read_pages()
    assert worker.stop() == 0
    RunRecorder().record_all(single_broker, (QUEUE,), None)
    found = {
        outcome: {row.run.task_id for row in viewer.get(f"{LIST}?state=ended&outcome={outcome}").context["runs"]}
        for outcome in ("expired", "timed_out", "failed")
    }

    assert before == read_pages() == [expected] * 3
    assert found == {"expired": {waited, *late}, "timed_out": {cut_off, slow}, "failed": {failed}}
    page = read_page()
    counted = {
        outcome: value(page, "runqy_task_runs_total", queue=QUEUE, outcome=outcome)
        for outcome in ("completed", *found, "retried")
    }
    assert counted == {"completed": 1, "expired": 1 + len(late), "timed_out": 2, "failed": 1, "retried": 0}
    runs = {run.task_id: run for run in TaskRun.objects.exclude(outcome=RunOutcome.COMPLETED)}
    assert {task_id: run.attempt for task_id, run in runs.items()} == {
        task_id: 0 if name == "Expired" else 1 for task_id, name in expected.items()
    }
    assert {(runs[task].started_at, runs[task].worker_id, records[task].attempts) for task in (waited, *late)} == {
        (None, "", 0)
    }
