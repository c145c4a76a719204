"""A steady load for minutes: the history is complete, charts agree with counters, pages and enqueueing stay fast."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from tools.soak.api import Client
from tools.soak.enqueueing import compare_enqueueing
from tools.soak.history_evidence import collect_histories, report_histories, wait_for_history
from tools.soak.history_load import SteadyLoad
from tools.soak.history_stack import history_stack
from tools.soak.options import Options
from tools.soak.report import Report, quantile
from tools.soak.sampling import CpuMeter, Sampler
from tools.soak.stack import Stack
from tools.soak.staff import PageReader, make_session

PART = "history"
MINUTES, RATE = 10.0, 1000.0
QUEUES = {"orders_high": 0.3, "orders_low": 0.3, "mail": 0.3, "reports": 0.1}
REACHED = 0.97
"""The share of the rate that must be reached, so that the result holds for that rate."""
PAGE_S, PAGE_SHARE = 0.3, 0.95
LIVE_GAP_S = 10.0
LAG_S = 10.0
LOCK_S = 0.05
WORKER = {"RUNQY_CONCURRENCY": "16", "RUNQY_PROCESSES": "1"}
SINGLE_S = 0.1
CPU_SAMPLES = 20
PAIRS, LEG_S = 8, 10.0


def run(options: Options, report: Report) -> None:
    """Run the load, check the history, then compare enqueueing with and without the history."""
    minutes, rate = options.minutes or MINUTES, options.rate or RATE
    with history_stack(report, options, PART) as stack:
        report.section(f"{rate:,.0f} tasks a second, 2 % of which fail, for {minutes:g} minutes")
        stack.add_worker("worker-a", queues="orders,mail,reports", **WORKER)
        stack.wait_until_ready(3)
        since = datetime.now(UTC)
        load, sampler = SteadyLoad(stack, QUEUES, rate=rate), Sampler(stack, list(QUEUES))
        reader = PageReader(make_session(stack), _pages(load), lambda: sampler.archived)
        meter, began_s = CpuMeter(stack), time.monotonic()
        with load, sampler, reader:
            enqueued_s = _enqueue_singles(stack, load, minutes * 60)
            took_s = time.monotonic() - began_s
            _report_load(load, sampler, rate, took_s, report)
            report.figure(PART, "CPU, cores", meter.describe())
        wait_for_history(stack, load, report, PART)
        report.figure(PART, "single tasks enqueued meanwhile", _spread(enqueued_s))
        _report_pages(reader, reader.measure_cpu(stack, CPU_SAMPLES), report)
        _report_samples(sampler, report)
        report_histories(collect_histories(stack, load, since=since), report, PART)
        seconds = min(LEG_S, minutes * 10)
        compare_enqueueing(stack, report, PART, rate=rate, pairs=PAIRS, seconds=seconds, worker=WORKER)


def _pages(load: SteadyLoad) -> dict[str, Callable[[], str]]:
    """Return the paths of the pages that users open."""

    def task_page() -> str:
        queue, task_id = load.failing[-1] if load.failing else ("mail", "unknown")
        return f"/admin/tasks/task/{task_id}/change/?queue={queue}"

    tasks = "/admin/tasks/task/"
    return {
        "overview": lambda: "/admin/",
        "overview, charts": lambda: "/admin/overview/charts/?range=1h",
        "tasks, all ended": lambda: f"{tasks}?state=ended",
        "tasks, failures of a queue": lambda: f"{tasks}?state=ended&queue=mail&outcome=failure",
        "tasks, slowest": lambda: f"{tasks}?state=ended&sort=slowest&period=hour",
        "tasks, text of one payload": lambda: f"{tasks}?state=ended&text=ORD-{max(load.accepted_count // 2, 1):08}",
        "tasks, text of every payload": lambda: f"{tasks}?state=ended&text=door",
        "errors": lambda: f"{tasks}errors/",
        "task": task_page,
    }


def _enqueue_singles(stack: Stack, load: SteadyLoad, seconds: float) -> list[float]:
    """Enqueue a task every tenth of a second; return the time of each request."""
    client: Client = stack.client(timeout_s=30)
    deadline, times_s = time.monotonic() + seconds, []
    while time.monotonic() < deadline:
        job, began_s = load.make_job(), time.monotonic()
        reply = client.send("POST", "/queue/add", {"queue": "mail", "data": job})
        times_s.append(time.monotonic() - began_s)
        if reply.status != 200:
            raise RuntimeError(f"POST /queue/add: {reply.status} {reply.content}")
        load.record("mail", [reply.content["info"]["id"]], [job])
        time.sleep(SINGLE_S)
    client.close()
    return times_s


def _report_load(load: SteadyLoad, sampler: Sampler, rate: float, took_s: float, report: Report) -> None:
    reached = load.accepted_count / took_s
    paused = f", clients waited {load.paused_s:.0f} s for workers" if load.paused_s else ""
    report.figure(PART, "load reached", f"{reached:,.0f} of {rate:,.0f} tasks/s for {took_s:.0f} s{paused}")
    if reached < rate * REACHED:
        report.skip(PART, f"this machine did not reach {rate:,.0f} tasks/s: all that follows is for {reached:,.0f}")
    report.figure(PART, "most tasks waiting", f"{sampler.most_waiting:,}")
    for reason, count in load.refusals.items():
        report.fail(PART, f"{count} batches were refused: {reason}")


def _report_pages(reader: PageReader, cpu_s: dict[str, float], report: Report) -> None:
    for name, times_s in reader.times_s.items():
        within = quantile(times_s, PAGE_SHARE)
        text = f"{_spread(times_s)}; {cpu_s[name] * 1000:.0f} ms of CPU"
        report.figure(PART, f"page {name}", text, passed=within <= PAGE_S)
    problems = ", ".join(f"{count} times {problem}" for problem, count in reader.problems.items())
    report.figure(PART, "pages that failed", problems or "none", passed=not problems)
    text = f"longest time without fresh numbers {reader.largest_gap_s:.1f} s, {reader.stale} times stale"
    report.figure(PART, "the overview is live", text, passed=reader.largest_gap_s <= LIVE_GAP_S and not reader.stale)


def _report_samples(sampler: Sampler, report: Report) -> None:
    lag_s = quantile(sampler.lags_s, PAGE_SHARE)
    text = f"p50 {quantile(sampler.lags_s, 0.5):.1f} s, p95 {lag_s:.1f} s, worst {max(sampler.lags_s):.1f} s"
    report.figure(PART, "lag of the history", f"{text} (p95 at most {LAG_S:g})", passed=lag_s <= LAG_S)
    report.figure(PART, "longest stream", f"{sampler.longest_stream:,} entries")
    if sampler.lock_waits_s:
        p99_s = quantile(sampler.lock_waits_s, 0.99)
        text = f"{_spread(sampler.lock_waits_s)} (p99 at most {LOCK_S * 1000:g} ms)"
        report.figure(PART, "waiting for SQLite's write lock", text, passed=p99_s <= LOCK_S)
    report.figure(
        PART, "Redis", f"{sampler.redis_mb[0]:,.0f} MB at the start, {sampler.redis_mb[-1]:,.0f} MB at the end"
    )
    for kind, sizes_mb in sampler.memory_mb.items():
        text = f"{sizes_mb[0]:,.0f} MB at the start, at most {max(sizes_mb):,.0f} MB"
        report.figure(PART, f"memory of {kind}", text)


def _spread(times_s: list[float]) -> str:
    cuts = {name: quantile(times_s, share) * 1000 for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    text = ", ".join(f"{name} {value:.1f}" for name, value in cuts.items())
    return f"{text}, worst {max(times_s) * 1000:.0f} ms of {len(times_s):,}"
