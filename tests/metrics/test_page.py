"""What /metrics shows: asynq's families, those of runqy, and what is left without Redis."""

import re
from dataclasses import replace
from time import perf_counter
from typing import Any

import pytest

from queues.models import Queue, ReleaseSource
from queues.releases import code_of, create_release
from runqy import clock
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import RunCounters, RunTime, add_run_counters
from runqy.broker.tasks.cancel import cancel
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerState
from runqy.configuration.operations import configuration_change
from runqy.configuration.snapshot import get_cache
from runqy.core.environment.connection_urls import RedisTarget
from runqy.redis_connection import get_broker
from runqy.server.metrics import exposition, families
from runqy.server.metrics.declarations import METRICS
from runqy.server.metrics.http_requests import _durations_of
from runqy.server.middleware import QUEUED_AT
from tests.api.client import ApiClient
from tests.api.wsgi import call
from tests.metrics.pages import Samples, read_page, value
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.releases import insert_release
from tests.support.servers import free_port
from tests.support.tasks import put, take_one
from tests.support.workers import RECORD, RUNNING

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("queues")]


def test_queues_are_shown_under_the_names_of_asynqs_exporter(redis: Any) -> None:
    put(get_broker(), "t1", "t2", queue="mail")
    get_broker().run(pause("mail", now_ns=10**18))
    redis.set(QueueKeys("mail").processed, 7)
    redis.set(QueueKeys("mail").failed, 2)

    page = read_page()

    assert value(page, "asynq_tasks_enqueued_total", queue="mail", state="pending") == 2
    assert value(page, "asynq_tasks_enqueued_total", queue="inference_high", state="archived") == 0
    assert value(page, "asynq_queue_size", queue="mail") == 2
    assert 0 < value(page, "asynq_queue_latency_seconds", queue="mail") < 60
    assert value(page, "asynq_queue_memory_usage_approx_bytes", queue="mail") > 100
    assert value(page, "asynq_tasks_processed_total", queue="mail") == 7
    assert value(page, "asynq_tasks_failed_total", queue="mail") == 2
    assert value(page, "asynq_queue_paused_total", queue="mail") == 1
    assert value(page, "asynq_queue_paused_total", queue="inference_low") == 0


def test_every_declared_metric_is_shown_and_no_other(redis: Any) -> None:
    put(get_broker(), "t1", queue="mail")

    shown = re.findall(r"^# TYPE ((?:asynq|runqy)_\w+) (\w+)", exposition.page.read().decode(), re.MULTILINE)

    assert dict(shown) == {info.name: info.kind for info in METRICS.values()}


def test_help_lines_have_no_links(redis: Any) -> None:
    page = exposition.page.read().decode()

    assert "# HELP runqy_task_runs_total attempts of runqy's workers by outcome, tasks" in page
    assert "](" not in page


def test_the_live_release_of_each_queue_and_the_one_that_rolls_out_are_shown() -> None:
    mail = Queue.objects.get(name="mail")
    insert_release(mail, "a" * 40, number=7)
    with configuration_change() as change:
        create_release(change, mail, code_of(mail), commit="b" * 40, source=ReleaseSource.MANUAL)

    page = read_page()

    assert value(page, "runqy_queue_release", queue="mail", state="live") == 7
    assert value(page, "runqy_queue_release", queue="mail", state="rolling_out") == 8
    assert value(page, "runqy_queue_release", queue="inference", state="live") == 0


def test_queues_that_only_redis_knows_get_no_label(redis: Any) -> None:
    redis.sadd(keys.QUEUES, "strange")
    redis.lpush(QueueKeys("strange").pending, "t1")

    assert not any(("queue", "strange") in labels for _, labels in read_page())


def test_queues_beyond_the_bound_are_added_up_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MAX_QUEUES", 1)
    put(get_broker(), "t1", queue="inference_low")
    put(get_broker(), "t2", "t3", queue="mail")

    page = read_page()

    assert value(page, "asynq_queue_size", queue="other") == 3
    assert {dict(labels)["queue"] for name, labels in page if name == "asynq_queue_size"} == {"inference_high", "other"}


def test_runs_are_shown_as_workers_counted_them() -> None:
    counters = RunCounters()
    for _ in range(3):
        counters.count_outcome(RunOutcome.COMPLETED, is_first=True, is_final=True)
    counters.count_outcome(RunOutcome.RETRIED, is_first=False, is_final=False)
    for seconds in (0.001, 0.3, 7200):
        counters.observe(RunTime.RUN, seconds)
    counters.observe(RunTime.WAIT, 2)
    counters.update(child_restarts=2, failed_deployments=1, dropped=5)
    get_broker().run(add_run_counters("inference_low", counters))
    get_broker().run(add_run_counters("inference_low", counters))

    page = read_page()

    assert value(page, "runqy_task_runs_total", queue="inference_low", outcome="completed") == 6
    assert value(page, "runqy_task_runs_total", queue="inference_low", outcome="retried") == 2
    assert value(page, "runqy_first_attempts_total", queue="inference_low", outcome="completed") == 6
    assert value(page, "runqy_first_attempts_total", queue="inference_low", outcome="retried") == 0
    assert value(page, "runqy_tasks_ended_total", queue="inference_low", outcome="completed") == 6
    assert value(page, "runqy_tasks_ended_total", queue="inference_low", outcome="retried") is None
    assert value(page, "runqy_task_runs_total", queue="inference_high", outcome="completed") == 0
    assert value(page, "runqy_task_run_seconds_bucket", queue="inference_low", le="0.005") == 2
    assert value(page, "runqy_task_run_seconds_bucket", queue="inference_low", le="0.5") == 4
    assert value(page, "runqy_task_run_seconds_bucket", queue="inference_low", le="3600.0") == 4
    assert value(page, "runqy_task_run_seconds_count", queue="inference_low") == 6
    assert value(page, "runqy_task_run_seconds_sum", queue="inference_low") == pytest.approx(14400.602)
    assert value(page, "runqy_task_wait_seconds_bucket", queue="inference_low", le="2.5") == 2
    assert value(page, "runqy_history_runs_dropped_total", queue="inference_low") == 10
    assert value(page, "runqy_task_runs_total", queue="inference_low", outcome="expired") == 0
    assert value(page, "runqy_worker_child_restarts_total", queue="inference") == 4
    assert value(page, "runqy_worker_deployments_total", queue="inference", outcome="failed") == 2


def test_what_ends_without_a_worker_is_counted_at_once(redis: Any) -> None:
    broker = get_broker()
    put(broker, "lost", queue="mail")
    take_one(broker, queue="mail")
    redis.zadd(QueueKeys("mail").lease, {"lost": 1})
    put(broker, "waiting", queue="mail")

    broker.run(cancel("mail", "waiting", now_ns=broker.now_ns()))
    broker.run(recover_lost(broker, ["mail"], LeaselessWatch(), grace_s=0))

    page = read_page()
    assert _count_failure_families(page, "canceled") == {"task_runs": 1, "first_attempts": 1, "tasks_ended": 1}
    # The lost one runs again.
    assert _count_failure_families(page, "lost") == {"task_runs": 1, "first_attempts": 1, "tasks_ended": 0}
    broker.run(cancel("mail", "lost", now_ns=broker.now_ns()))
    page = read_page()
    assert _count_failure_families(page, "canceled") == {"task_runs": 2, "first_attempts": 1, "tasks_ended": 2}


def _count_failure_families(page: Samples, outcome: str) -> dict[str, float | None]:
    names = ("task_runs", "first_attempts", "tasks_ended")
    return {name: value(page, f"runqy_{name}_total", queue="mail", outcome=outcome) for name in names}


def test_batches_and_deaths_of_all_sub_queues_are_added_up_by_queue() -> None:
    get_broker().run(add_run_counters("inference_low", RunCounters(batches=2, batch_tasks=20, shared_deaths=1)))
    get_broker().run(add_run_counters("inference_high", RunCounters(batches=1, batch_tasks=16)))

    page = read_page()

    assert value(page, "runqy_worker_batch_size_count", queue="inference") == 3
    assert value(page, "runqy_worker_batch_size_sum", queue="inference") == 36
    assert value(page, "runqy_worker_shared_deaths_total", queue="inference") == 1


@pytest.mark.parametrize("forged", ["-5", "x", "9" * 30, "9" * 19])
def test_counters_that_a_worker_forged_do_no_harm(redis: Any, forged: str) -> None:
    redis.hset(QueueKeys("mail").run_counters, "completed", forged)
    counters = RunCounters()
    counters[RunOutcome.COMPLETED] = 1

    before = value(read_page(), "runqy_task_runs_total", queue="mail", outcome="completed")
    get_broker().run(add_run_counters("mail", counters))

    assert 0 <= before <= 2**53
    assert value(read_page(), "runqy_task_runs_total", queue="mail", outcome="completed") >= 0


def test_a_key_of_the_wrong_type_hides_no_other_queue(redis: Any) -> None:
    redis.set(QueueKeys("mail").run_counters, "no hash")
    redis.hset(QueueKeys("inference_low").run_counters, "completed", 4)

    page = read_page()

    assert value(page, "runqy_task_runs_total", queue="mail", outcome="completed") == 0
    assert value(page, "runqy_task_runs_total", queue="inference_low", outcome="completed") == 4


@pytest.mark.usefixtures("stopped_clock")
def test_workers_and_their_slots_are_shown() -> None:
    broker = get_broker()
    now_ns = broker.now_ns()
    broker.run(write_heartbeat(RECORD, [RUNNING], now_ns=now_ns))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w2", state=WorkerState.DEPLOYING), now_ns=now_ns))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w3"), now_ns=now_ns - 20 * 10**9))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w4", queue="x", redis_queues={"x": 1}), now_ns=now_ns))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w5", concurrency=10**9), now_ns=now_ns))

    page = read_page()

    assert value(page, "runqy_workers", queue="inference_low", state="ready") == 2
    assert value(page, "runqy_workers", queue="inference_high", state="deploying") == 1
    assert value(page, "runqy_workers", queue="inference_low", state="disconnected") == 1
    assert value(page, "runqy_workers", queue="mail", state="ready") == 0
    assert value(page, "runqy_worker_slots", queue="inference") == 4 + 4 + families.MAX_SLOTS
    assert value(page, "runqy_worker_slots_busy", queue="inference") == 1
    assert not any(("queue", "x") in labels for _, labels in page)


@pytest.mark.usefixtures("stopped_clock")
def test_a_worker_process_that_serves_several_queues_counts_once() -> None:
    broker = get_broker()
    now_ns = broker.now_ns()
    for worker_id, queues, state in (
        ("w1", {"mail": 1}, WorkerState.READY),
        ("w2", {"inference_low": 1, "inference_high": 1}, WorkerState.DEPLOYING),
    ):
        record = replace(RECORD, worker_id=worker_id, redis_queues=queues, state=state)
        broker.run(write_heartbeat(record, now_ns=now_ns))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w3", pid=8, state=WorkerState.DEPLOYING), now_ns=now_ns))
    broker.run(write_heartbeat(replace(RECORD, worker_id="w4", pid=9), now_ns=now_ns - 20 * 10**9))

    page = read_page()

    processes = {
        state: value(page, "runqy_worker_processes", state=state) for state in ("ready", "not_ready", "disconnected")
    }
    assert processes == {"ready": 1, "not_ready": 1, "disconnected": 1}


def test_the_state_of_the_installation_is_shown(redis: Any) -> None:
    oldest = redis.xadd(keys.AUDIT_STREAM, {"content": b"x"}, id=f"{get_broker().now_ns() // 10**6 - 5000}-0")
    assert oldest

    page = read_page()

    assert value(page, "runqy_redis_up") == 1
    assert 0 < value(page, "runqy_redis_round_trip_seconds") < 60
    assert value(page, "runqy_maintenance_up") == 0
    assert value(page, "runqy_config_publication", state="published") == 1
    assert value(page, "runqy_config_publication", state="altered") == 0
    assert value(page, "runqy_stream_entries", stream="audit") >= 1
    assert 5 <= value(page, "runqy_stream_lag_seconds", stream="audit") < 60
    assert value(page, "runqy_stream_entries", stream="deliveries") == 0
    assert 0 <= value(page, "runqy_config_snapshot_age_seconds") < 60
    assert value(page, "runqy_stream_entries", stream="history") == 0
    assert value(page, "runqy_stream_lag_seconds", stream="history") == 0


def test_the_history_lags_by_the_oldest_run_of_any_queue(redis: Any) -> None:
    now_ms = get_broker().now_ns() // 10**6
    redis.xadd(QueueKeys("mail").runs, {"task": "t1"}, id=f"{now_ms - 5000}-0")
    redis.xadd(QueueKeys("mail").runs, {"task": "t2"})
    redis.xadd(QueueKeys("inference_low").runs, {"task": "t3"}, id=f"{now_ms - 90_000}-0")
    redis.set(QueueKeys("inference_high").runs, "no stream")

    page = read_page()

    assert value(page, "runqy_stream_entries", stream="history") == 3
    assert 90 <= value(page, "runqy_stream_lag_seconds", stream="history") < 150


def test_an_entry_with_an_id_that_is_no_time_has_no_age(redis: Any) -> None:
    redis.xadd(QueueKeys("mail").runs, {"task": "t1"}, id="7-0")

    assert value(read_page(), "runqy_stream_lag_seconds", stream="history") == 0


def test_a_stream_whose_entries_were_all_read_has_no_backlog(redis: Any) -> None:
    stream = QueueKeys("mail").runs
    redis.xdel(stream, redis.xadd(stream, {"id": b"t1"}))

    page = read_page()

    assert redis.exists(stream)
    assert value(page, "runqy_stream_entries", stream="history") == 0
    assert value(page, "runqy_stream_lag_seconds", stream="history") == 0


def test_an_idle_server_confirms_its_configuration_before_its_age_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    read_page()
    monkeypatch.setattr(get_cache(), "confirmed_at", clock.monotonic_s() - 3600)
    monkeypatch.setattr(get_cache(), "refreshed_at", clock.monotonic_s() - 3600)

    assert 0 <= value(read_page(), "runqy_config_snapshot_age_seconds") < 60


def test_an_altered_publication_is_shown(redis: Any) -> None:
    read_page()
    redis.set(keys.CONFIG_REVISIONS, "forged")

    page = read_page()

    assert value(page, "runqy_config_publication", state="published") == 0
    assert sum(number for (name, _), number in page.items() if name == "runqy_config_publication") == 1


def test_without_redis_the_servers_own_numbers_are_left(settings: Any) -> None:
    read_page()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    page = read_page()

    assert value(page, "runqy_redis_up") == 0
    assert value(page, "runqy_build_info", version="1.0.0") == 1
    assert not any(name.startswith("asynq_") for name, _ in page)
    assert value(page, "runqy_http_request_duration_seconds_count", route="/metrics", method="GET", status="200")


@pytest.mark.cluster
@pytest.mark.usefixtures("stopped_clock")
def test_queues_on_all_nodes_of_a_cluster_are_shown(
    settings: Any, cluster_broker: Broker, cluster_target: RedisTarget
) -> None:
    settings.REDIS_TARGET = cluster_target
    put(cluster_broker, "t1", queue="mail")
    put(cluster_broker, "t2", "t3", queue="inference_low")
    cluster_broker.run(write_heartbeat(RECORD, now_ns=cluster_broker.now_ns()))

    page = read_page()

    assert value(page, "asynq_queue_size", queue="mail") == 1
    assert value(page, "asynq_queue_size", queue="inference_low") == 2
    assert value(page, "asynq_queue_memory_usage_approx_bytes", queue="mail") > 100
    assert value(page, "runqy_workers", queue="inference_low", state="ready") == 1


def test_requests_are_counted_by_route_template_on_each_plane(each_plane: str) -> None:
    wanted = [
        ("/queue/add", "POST", 200),
        ("/queue/{task_id}", "GET", 404),
        ("/queue/{task_id}?wait", "GET", 404),
        ("/api/cli/queues/{queue}", "GET", 404),
        ("other", "GET", 404),
    ]

    def count(page: Samples) -> list[float]:
        labels = [{"route": route, "method": method, "status": str(status)} for route, method, status in wanted]
        return [value(page, "runqy_http_request_duration_seconds_count", **one) or 0 for one in labels]

    before = count(read_page())
    client = ApiClient(CLIENT_KEY)
    client.post("/queue/add", {"queue": "mail", "data": {}})
    client.get("/queue/secret-id")
    client.get("/queue/secret-id?wait=1s")
    ApiClient(ADMIN_KEY).get("/api/cli/queues/secret-name")
    client.get("/nowhere/secret-path")

    page = read_page()
    found = [now - then for now, then in zip(count(page), before, strict=True)]
    assert all(1 <= number <= 2 for number in found), found  # the client repeats safe requests on the other plane
    assert not re.search("secret-(id|name|path)", str(page))


def test_unknown_methods_are_one_series_whatever_clients_send() -> None:
    known = _durations_of.cache_info().currsize

    for number in range(5):
        call(f"SECRET{number}", "/livez")

    assert "SECRET" not in str(read_page())
    assert _durations_of.cache_info().currsize <= known + 2  # that of the method `other`, that of the page


def test_the_duration_of_a_request_includes_its_wait_for_a_thread() -> None:
    def total() -> float:
        labels = {"route": "/livez", "method": "GET", "status": "200"}
        return value(read_page(), "runqy_http_request_duration_seconds_sum", **labels) or 0

    before = total()
    call("GET", "/livez", **{QUEUED_AT: perf_counter() - 100})

    assert 100 <= total() - before < 200


def test_the_series_of_durations_are_those_of_existing_dashboards() -> None:
    call("GET", "/livez")

    page = read_page()

    labels = (dict(labels) for name, labels in page if name == "runqy_http_request_duration_seconds_bucket")
    bounds = [each["le"] for each in labels if (each["route"], each["method"]) == ("/livez", "GET")]
    assert " ".join(bounds) == "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 +Inf"
    assert not any(name.endswith("_created") for name, _ in page)


def test_a_page_is_built_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "MAX_AGE_S", 60.0)
    monkeypatch.setattr(exposition, "page", exposition.MetricsPage())
    monkeypatch.setattr("runqy.server.metrics.viewsets.page", exposition.page)
    read_page()
    put(get_broker(), "t1", queue="mail")

    assert value(read_page(), "asynq_queue_size", queue="mail") == 0
