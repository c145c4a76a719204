"""Clocks that are five minutes apart or are set: no lease ends early, nothing runs twice, delays are kept."""

import contextlib
import sys
import time

from tests.support.servers import free_port
from tools.soak import processes
from tools.soak.api import Client
from tools.soak.checker import check
from tools.soak.draining import collect, drain
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import ManagedProcess, wait_for
from tools.soak.report import Report
from tools.soak.runs import read_runs
from tools.soak.stack import GRACE_S, LEASE_S, RECOVERY_INTERVAL_S, START_S, Stack, running_stack

PART = "clocks"
APART_S = 300
LONG_S = LEASE_S + GRACE_S + RECOVERY_INTERVAL_S + 2
"""A run of this length would be recovered if a clock that is ahead judged its lease."""
DELAY_S = 5
LOAD_S = 20.0
STEP_S, LATE_S, RETRY_MAX_S = 3600, 5.0, 4.0


def run(options: Options, report: Report) -> None:
    _run_apart(options, report)
    _run_stepping(options, report)


def _run_apart(options: Options, report: Report) -> None:
    """Run a worker whose clock is behind, one whose clock is ahead, and a second maintenance process that is ahead."""
    rng = options.rng(PART)
    with running_stack(report, rng) as stack, stack.redis_client() as redis:
        report.section(f"Workers {APART_S} s behind and ahead, and a second maintenance {APART_S} s ahead")
        maintenance = _start_maintenance(stack)
        for name, offset_s in (("behind", -APART_S), ("ahead", APART_S)):
            program = ("-m", "tools.soak.skewed", str(offset_s), "workers.runtime.main")
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


def _run_stepping(options: Options, report: Report) -> None:
    """Set the clocks of a web process and of the only worker, then check delays, retries and the worker's state."""
    with running_stack(report, options.rng(PART)) as stack:
        report.section(f"Clocks of a web process and a worker that are set by {STEP_S} s, forward and back")
        offset = stack.folder / "offset"
        offset.write_text("0")
        skewed = ("-m", "tools.soak.skewed", str(offset))
        stack.add_worker("stepping", program=(*skewed, "workers.runtime.main"), PYTHONPATH=str(processes.ROOT))
        port = free_port()
        served = ("gunicorn", "runqy.asgi:application", "-c", "python:runqy.gunicorn_conf", "-b", f"127.0.0.1:{port}")
        web = ManagedProcess("web", [sys.executable, *skewed, *served], stack.env, stack.folder / "web.log")
        stack.others.append(web)
        web.start()
        client = Client(port, stack.key)
        stack.wait_until_ready(3)
        wait_for(lambda: client.send("GET", "/readyz").status == 200, START_S, "the web process is ready")
        for step_s in (STEP_S, -STEP_S):
            client.get("/api/cli/workers")  # the process has measured its clock by now
            offset.write_text(str(step_s))
            _judge_step(stack, client, report, f"set by {step_s} s")
        client.close()
        web.end()


def _judge_step(stack: Stack, client: Client, report: Report, name: str) -> None:
    """Enqueue delayed and failing tasks for some seconds; check how late they run, and the worker's state."""
    sent_at: dict[str, float] = {}
    failing: list[str] = []
    lost = 0
    for _ in range(10):
        body = {"queue": "canary", "data": {"do": "ok"}, "delay": DELAY_S}
        began_at = time.time()
        sent_at[client.post("/queue/add", body)["info"]["id"]] = began_at
        body = {"queue": "canary", "data": {"do": "flaky", "failures": 1}}
        failing.append(client.post("/queue/add", body)["info"]["id"])
        lost += sum(worker["is_stale"] for worker in client.get("/api/cli/workers")["workers"])
        time.sleep(1)

    def has_run(task_id: str, times: int) -> bool:
        return len(read_runs(stack.journal).get(task_id, ())) >= times

    with contextlib.suppress(TimeoutError):  # the lateness of what has not run is reported as infinite
        wait_for(lambda: all(has_run(t, 1) for t in sent_at) and all(has_run(t, 2) for t in failing), 60, "the tasks")
    runs = read_runs(stack.journal)
    delayed = [runs[t][0].started_at - at - DELAY_S if has_run(t, 1) else float("inf") for t, at in sent_at.items()]
    retried = [runs[t][1].started_at - runs[t][0].started_at if has_run(t, 2) else float("inf") for t in failing]
    report.require(PART, f"{name}: a delayed task is late by", max(delayed), at_most=LATE_S)
    report.require(PART, f"{name}: a retry comes after", max(retried), at_most=RETRY_MAX_S + LATE_S)
    if min(delayed) < -1:
        report.fail(PART, f"{name}: a delayed task ran {-min(delayed):.1f} s early")
    report.figure(PART, f"{name}: workers shown as lost", str(lost), passed=not lost)


def _start_maintenance(stack: Stack) -> ManagedProcess:
    env = {**stack.env, "DJANGO_SETTINGS_MODULE": "runqy.settings"}
    command = [sys.executable, "-m", "tools.soak.skewed", str(APART_S), "django", "run_maintenance"]
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
