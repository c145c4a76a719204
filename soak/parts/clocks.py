"""Clocks five minutes apart: no lease ends early, nothing runs twice, delays are kept."""

import sys
import time

from soak import processes
from soak.checker import check
from soak.draining import collect, drain
from soak.load import Load
from soak.options import Options
from soak.processes import ManagedProcess, wait_for
from soak.report import Report
from soak.runs import read_runs
from soak.stack import GRACE_S, LEASE_S, RECOVERY_INTERVAL_S, Stack, running_stack

PART = "clocks"
APART_S = 300
LONG_S = LEASE_S + GRACE_S + RECOVERY_INTERVAL_S + 2
"""A run that is recovered if its lease is read by a clock that is ahead."""
DELAY_S = 5
LOAD_S = 20.0


def run(options: Options, report: Report) -> None:
    """Run a worker whose clock is behind, one whose clock is ahead, and a second maintenance that is ahead."""
    rng = options.rng(PART)
    with running_stack(report, rng) as stack, stack.redis_client() as redis:
        report.section(f"Workers {APART_S} s behind and ahead, and a second maintenance {APART_S} s ahead")
        maintenance = _start_maintenance(stack)
        for name, offset_s in (("behind", -APART_S), ("ahead", APART_S)):
            program = ("-m", "soak.skewed", str(offset_s), "workers.runtime.main")
            stack.add_worker(name, program=program, PYTHONPATH=str(processes.ROOT))
        stack.wait_until_ready(6)
        with Load(stack, rng, pause_s=0.6) as load:
            client = stack.client()
            long_ids = [_add(stack, {"do": "ok", "s": LONG_S, "number": f"long-{n}"}) for n in range(2)]
            for task_id in long_ids:
                load.record_accepted(task_id, "slow")
            began_at = time.time()
            delayed = _add(stack, {"do": "ok", "number": "delayed"}, queue="canary", delay=DELAY_S)
            load.record_accepted(delayed, "delayed")
            wait_for(lambda: client.get(f"/queue/{delayed}")["info"]["state"] == "completed", 60, "the delayed task")
            waited_s = read_runs(stack.journal)[delayed][0].started_at - began_at
            report.figure(PART, f"a delay of {DELAY_S} s took", f"{waited_s:.1f} s")
            if not DELAY_S - 1 <= waited_s <= DELAY_S + 10:
                report.fail(PART, f"a task with a delay of {DELAY_S} s started after {waited_s:.1f} s")
            time.sleep(LOAD_S)
        if not maintenance.is_alive():
            report.fail(PART, "the second maintenance ended")
        drained_s = drain(stack, [redis])
        report.figure(PART, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
        evidence = collect(stack, load, [redis])
        for task_id in long_ids:
            report.figure(PART, f"runs of a task of {LONG_S} s", str(len(evidence.runs[task_id])))
        report.figure(PART, "accepted tasks", str(len(load.accepted)))
        report.add_result(PART, check(evidence))
        client.close()
        maintenance.end()


def _start_maintenance(stack: Stack) -> ManagedProcess:
    env = {**stack.env, "DJANGO_SETTINGS_MODULE": "runqy.settings"}
    command = [sys.executable, "-m", "soak.skewed", str(APART_S), "django", "run_maintenance"]
    maintenance = ManagedProcess("maintenance-ahead", command, env, stack.folder / "maintenance-ahead.log")
    stack.workers[maintenance.name] = maintenance
    maintenance.start()
    return maintenance


def _add(stack: Stack, payload: dict[str, object], *, queue: str = "steady_high", **options: object) -> str:
    client = stack.client()
    body = {"queue": queue, "data": payload, "timeout": 120, **options}
    task_id: str = client.post("/queue/add", body)["info"]["id"]
    client.close()
    return task_id
