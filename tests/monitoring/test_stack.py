"""A whole stack, scraped by a real Prometheus with the files of docs/monitoring, and traced to a collector."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import httpx2
import pytest

from tests.monitoring.collector import Collector, ReceivedSpan, run_collector
from tests.monitoring.prometheus import MONITORING, Prometheus
from tests.stack.stack import Stack, make_queue
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="Prometheus is not installed (Debian: apt-get install prometheus)",
)

CODE = """\
import json, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    error = "no" if task["payload"].get("fails") else None
    response = {"task_id": task["task_id"], "result": task.get("traceparent"), "error": error, "retry": False}
    print(json.dumps(response), flush=True)
"""
NAMED_BY_ASYNQ = {"asynq_tasks_enqueued_total", "asynq_queue_paused_total"}
"""Gauges that asynq's exporter calls `_total`, which promtool criticises."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Run a collector of spans."""
    with run_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run a stack with one queue."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(
        folder,
        QUEUE_WORKERS_DIR=str(make_queue(folder, code=CODE)),
        WEB_CONCURRENCY="2",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    try:
        stack.start()
        yield stack
    finally:
        stack.end()


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrape the stack while it runs tasks, until the worker's numbers have arrived."""
    prometheus = Prometheus(
        tmp_path_factory.mktemp("prometheus"), target_port=stack.port, token_file=stack.home / "metrics_token"
    )
    try:
        prometheus.wait_for("up == 1")
        with pytest.raises(HTTPError):
            stack.ask("/queue/unknown")
        for fails in (False, True, False):
            stack.read(stack.enqueue({"fails": fails}))
        prometheus.wait_for('runqy_task_runs_total{outcome="completed"} >= 2')
        prometheus.wait_for('runqy_task_runs_total{outcome="failed"} == 1')
        prometheus.wait_for("count_over_time(runqy_redis_up[1m]) >= 3")
        yield prometheus
    finally:
        prometheus.close()


def read_page(stack: Stack) -> str:
    """Return /metrics, by the command that the stack printed."""
    (command,) = re.findall(r"Metrics +(curl .*)", stack.output)
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def board_queries() -> list[str]:
    """Return the queries of the dashboard's panels, as Grafana would fill them in."""
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    filled = {"$__rate_interval": "1m", "$job": "runqy", "$queue": ".*"}
    return [re.sub(r"\$\w+", lambda match: filled[match[0]], expression) for expression in found]


@needs_prometheus
def test_promtool_accepts_the_alert_rules() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", str(MONITORING / "alerts.yml")], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_an_alert_names_a_queue_whose_processes_died_with_several_tasks(tmp_path: Path) -> None:
    deaths = [
        {"series": 'runqy_worker_shared_deaths_total{queue="embed"}', "values": "0 0 1 2 2 2 2 2 2 2 2"},
        {"series": 'runqy_worker_shared_deaths_total{queue="mail"}', "values": "0 0 1 1 1 1 1 1 1 1 1"},
    ]
    summary = "2 child processes of embed died in 10 minutes while they ran several tasks; lower child_concurrency"
    alert = {"exp_labels": {"severity": "warning", "queue": "embed"}, "exp_annotations": {"summary": summary}}
    expected = [{"alertname": "RunqyDiesAtConcurrency", "eval_time": "10m", "exp_alerts": [alert]}]

    check_rules(tmp_path, deaths, expected)


@needs_prometheus
def test_failing_tasks_open_alerts_and_their_retries_alone_none(tmp_path: Path) -> None:
    """Of 20 new tasks a minute a quarter fails, in `embed` until the end. In `mail` only retries are left."""
    counted = {
        'runqy_first_attempts_total{queue="embed",outcome="completed"}': "0+15x15",
        'runqy_first_attempts_total{queue="embed",outcome="retried"}': "0+5x15",
        'runqy_tasks_ended_total{queue="embed",outcome="completed"}': "0+15x15",
        'runqy_tasks_ended_total{queue="embed",outcome="failed"}': "0+5x15",
        'runqy_first_attempts_total{queue="mail",outcome="completed"}': "0+20x3 60x12",
        'runqy_first_attempts_total{queue="mail",outcome="retried"}': "0+1x3 3x12",
        'runqy_tasks_ended_total{queue="mail",outcome="completed"}': "0+20x3 60x12",
        'runqy_tasks_ended_total{queue="mail",outcome="failed"}': "0x3 0+3x12",
    }
    texts = {
        "RunqyTasksFail": "25% of the tasks of embed that end have failed",
        "RunqyFirstAttemptsFail": "25% of the first attempts of embed fail, whether or not retries succeed",
    }
    alerts = {
        name: {"exp_labels": {"severity": "warning", "queue": "embed"}, "exp_annotations": {"summary": text}}
        for name, text in texts.items()
    }

    check_rules(
        tmp_path,
        [{"series": series, "values": values} for series, values in counted.items()],
        [{"alertname": name, "eval_time": "14m", "exp_alerts": [alert]} for name, alert in alerts.items()],
    )


def check_rules(folder: Path, series: list[dict[str, str]], expected: list[dict[str, Any]]) -> None:
    """Apply the alert rules to numbers of each minute."""
    case = {"interval": "1m", "input_series": series, "alert_rule_test": expected}
    (folder / "case.json").write_text(json.dumps({"rule_files": [str(MONITORING / "alerts.yml")], "tests": [case]}))

    checked = subprocess.run(["promtool", "test", "rules", str(folder / "case.json")], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_promtool_accepts_the_page(prometheus: Prometheus, stack: Stack) -> None:
    checked = subprocess.run(["promtool", "check", "metrics"], input=read_page(stack), capture_output=True, text=True)

    lines = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in lines if line.split(" ")[0] not in NAMED_BY_ASYNQ] == []


@needs_prometheus
def test_prometheus_runs_every_query_of_the_board(prometheus: Prometheus) -> None:
    queries = board_queries()

    assert len(queries) > 25
    for query in queries:
        prometheus.wait_for(query)


@needs_prometheus
@pytest.mark.parametrize("queue", ["", 'queue="echo"'])
def test_prometheus_serves_the_queries_of_tools_for_asynqs_exporter(prometheus: Prometheus, queue: str) -> None:
    """asynqmon's metrics page sends these, for all queues or for one; so do dashboards of its exporter."""
    gauges = ["asynq_queue_size", "asynq_queue_latency_seconds", "asynq_queue_memory_usage_approx_bytes"]
    rates = [f"rate(asynq_tasks_{name}_total{{{queue}}}[5m])" for name in ("processed", "failed")]
    states = ["pending", "retry", "archived"]
    queries = [
        *(f"{name}{{{queue}}}" for name in gauges),
        *rates,
        f"{rates[1]} / {rates[0]}",
        *(f'asynq_tasks_enqueued_total{{state="{state}",{queue}}}' for state in states),
    ]

    results = {query: prometheus.wait_for(query) for query in queries}

    assert {series["metric"]["queue"] for result in results.values() for series in result} == {"echo"}


@needs_prometheus
def test_prometheus_evaluates_every_alert_rule(prometheus: Prometheus) -> None:
    wait_until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()))

    found = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in prometheus.rules()}
    assert len(found) > 10
    assert set(found.values()) == {("ok", "")}


@needs_prometheus
def test_outcomes_and_times_count_the_same_runs(prometheus: Prometheus) -> None:
    outcomes = 'sum by (queue) (runqy_task_runs_total{queue="echo"}) >= 3'
    runs, waits = "runqy_task_run_seconds_count", "runqy_task_wait_seconds_count"

    prometheus.wait_for(f"({outcomes}) == on (queue) {runs} == on (queue) {waits}")
    prometheus.wait_for('runqy_worker_deployments_total{queue="echo",outcome="succeeded"} == 1')


@needs_prometheus
def test_both_web_processes_count_into_one_page(prometheus: Prometheus, stack: Stack) -> None:
    prometheus.wait_for('sum(runqy_http_request_duration_seconds_count{route="/queue/add"}) >= 3')
    folders = list((Path(stack.home) / "metrics").iterdir())
    assert len(folders) == 1
    assert len(list(folders[0].glob("histogram_*.db"))) == 2


CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def send_traced(stack: Stack, data: dict[str, Any]) -> dict[str, Any]:
    """Enqueue a task as a client that is traced, and return it once it has ended."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/queue/add",
        data=json.dumps({"queue": "echo", "data": data}).encode(),
        headers={
            "Authorization": f"Bearer {(stack.home / 'api_key').read_text().strip()}",
            "traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        task_id = str(json.load(response)["info"]["id"])
    return stack.read(task_id)


def test_the_spans_of_a_task_continue_the_clients_trace(stack: Stack, collector: Collector) -> None:
    info = send_traced(stack, {})

    names = {"POST /queue/add", "enqueue echo", "wait echo", "run echo"}
    wait_until(lambda: names <= collector.spans_of(CLIENT_TRACE).keys())
    request, enqueue, run, wait = (collector.spans_of(CLIENT_TRACE)[name] for name in sorted(names))
    assert [span.service for span in (request, enqueue, wait, run)] == ["runqy", "runqy", *["runqy-worker"] * 2]
    assert [span.parent_id for span in (request, enqueue, wait, run)] == [
        CLIENT_SPAN,
        request.span_id,
        enqueue.span_id,
        enqueue.span_id,
    ]
    assert wait.end_ns == run.start_ns
    assert request.attributes["http.response.status_code"] == "200"
    assert run.attributes["runqy.outcome"] == "succeeded"
    assert info["result"] == f"00-{CLIENT_TRACE}-{run.span_id}-01"
    assert info["traceparent"] == f"00-{CLIENT_TRACE}-{enqueue.span_id}-01"


def test_a_request_without_a_trace_begins_one(stack: Stack) -> None:
    info = stack.read(stack.enqueue({}))

    assert info["traceparent"].startswith("00-")
    assert CLIENT_TRACE not in info["traceparent"]
    assert info["result"][:35] == info["traceparent"][:35]


def test_django_serves_inside_a_span(stack: Stack, collector: Collector) -> None:
    trace_id = "1" * 32
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/api/cli/queues/echo",
        headers={
            "Authorization": f"Bearer {(stack.home / 'api_key').read_text().strip()}",
            "traceparent": f"00-{trace_id}-{CLIENT_SPAN}-01",
        },
    )
    urllib.request.urlopen(request, timeout=60).close()

    wait_until(lambda: collector.spans_of(trace_id))
    (span,) = collector.spans_of(trace_id).values()
    assert (span.name, span.parent_id) == ("GET /api/cli/queues/{queue}", CLIENT_SPAN)


@contextmanager
def log_in(stack: Stack) -> Iterator[httpx2.Client]:
    """Log in as the stack's administrator."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=60) as client:
        password = (stack.home / "admin_password").read_text().strip()
        login = post(client, "/admin/login/", username="admin", password=password, next="/admin/")
        assert login.headers["Location"] == "/admin/"
        yield client


def post(client: httpx2.Client, path: str, **fields: str) -> httpx2.Response:
    """Send a form, and return the redirection."""
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/login/").text)
    token = token or re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/tasks/task/add/").text)
    assert token is not None
    response = client.post(path, data=fields | {"csrfmiddlewaretoken": token[1]})
    assert response.status_code == 302, response.text
    return response


def id_of(response: httpx2.Response) -> str:
    """Return the id of the object to whose page a response redirects."""
    found = re.search(r"/([^/]+)/change/", response.headers["Location"])
    assert found is not None
    return found[1]


def test_tasks_that_the_admin_and_maintenance_enqueue_have_spans_too(stack: Stack, collector: Collector) -> None:
    with log_in(stack) as admin:
        tested = id_of(post(admin, "/admin/tasks/task/add/", queue="echo", payload='{"word":"unmistakable"}'))
        stack.read(tested)
        copied = id_of(post(admin, f"/admin/tasks/task/{tested}/run-again/?queue=echo", payload='{"edited":1}'))
        wait_until(lambda: stack.ask(f"/api/runs?task_id={tested}")["runs"])
        stack.ask(f"/api/cli/queues/echo/tasks/{tested}", method="DELETE")
        fields = {"action": "run", "state": "ended", "queue": "echo", "text": "unmistakable", "expected": "1"}
        action = id_of(post(admin, "/admin/tasks/bulkaction/add/", **fields))

    def spans_of_runs() -> dict[str, ReceivedSpan]:
        return {span.attributes["messaging.message.id"]: span for span in collector.spans_named("run echo")}

    def find_enqueues() -> dict[str, ReceivedSpan]:
        by_id = {span.span_id: span for span in collector.spans_named("enqueue echo")}
        return {task: by_id[run.parent_id] for task, run in spans_of_runs().items() if run.parent_id in by_id}

    def of_maintenance() -> list[str]:
        return [task for task, span in find_enqueues().items() if span.service == "runqy-maintenance"]

    wait_until(lambda: of_maintenance() and {tested, copied} <= find_enqueues().keys(), timeout_s=60)
    (repeated,) = of_maintenance()
    enqueues = find_enqueues()
    assert [enqueues[task].service for task in (tested, copied)] == ["runqy", "runqy"]
    assert [bool(enqueues[task].parent_id) for task in (tested, copied, repeated)] == [True, True, False]
    assert stack.read(repeated)["request_id"] == f"bulk-action-{action}"


@pytest.mark.parametrize("program", ["runqy.wsgi", "workers.runtime.main"])
def test_without_an_endpoint_nothing_of_opentelemetry_is_imported(program: str) -> None:
    """redis-py imports some of it wherever it is installed."""
    names = {"runqy.core.telemetry.otel", "opentelemetry.sdk.trace"}
    code = f"import sys, {program}; print(sorted({names} & sys.modules.keys()))"
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
