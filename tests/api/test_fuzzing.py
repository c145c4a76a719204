"""Requests that schemathesis generates from the schema get responses that conform to it.

All operations are sent to Django's WSGI application. The running server, with the data plane in
front of Django, gets those of the data plane in the same way, and a few examples of each other.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from schemathesis import engine
from schemathesis.engine import events
from schemathesis.transport.wsgi import WSGITransport

from queues import deletion
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.wsgi import application
from tasks.waiting_loop import get_waiting_loop
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0"))
"""For how long all operations together are tried, with new examples in each run; 0: a few examples each, the same."""

EXAMPLES = max(5, int(SECONDS) // 6)
"""Generated requests of each operation in a round, in addition to the schema's examples."""

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in SchemaGenerator().get_schema(public=True)["paths"].items()
    for method, operation in operations.items()
    if method in METHODS
}
ALIASES = [label for label, operation in OPERATIONS.items() if operation.get("deprecated")]
"""Second paths to the actions of other operations."""
DATA_PLANE = ["POST /queue/add", "POST /queue/add-batch"]
DATA_PLANE += [f"GET /queue/{{task_id}}{part}" for part in ("", "/events", "/stream")]

# Every check of schemathesis is on. What it finds all the same is in this table, or is a defect: the check, the
# operations, and the statuses with which it may be wrong.
TASKS = {"enqueue_task", "create_task", "enqueue_batch", "create_batch", "add_to_batch"}
CONFIGS = {"create_config", "replace_config"}
VAULTS = {"delete_vault", "set_vault_entry", "put_vault_entry", "set_vault_entries", "delete_vault_entry"}
CONDITIONAL = CONFIGS | VAULTS | {"delete_config"}
LISTS = {
    *("list_tasks", "list_api_keys", "list_vault_deliveries", "list_vault_entry_versions", "list_runs", "list_alerts"),
    *("list_audit_records", "list_bulk_actions", "list_webhook_deliveries", "list_schedules", "list_fires"),
    *("list_batches", "get_batch"),
}
EXCEPTIONS: list[tuple[str, set[str], int, str]] = [
    ("positive_data_acceptance", TASKS, 400, "a queue's payload schema, and options that exclude each other"),
    ("positive_data_acceptance", TASKS, 422, "an Idempotency-Key was used for another body"),
    ("positive_data_acceptance", TASKS | {"get_task"}, 400, "`wait` is a duration"),
    (
        "positive_data_acceptance",
        CONFIGS,
        400,
        "rules between fields, and of git addresses and vaults",
    ),
    ("positive_data_acceptance", {"redeploy_queue"}, 400, "`commit` is a whole commit or a possible name of a tag"),
    ("positive_data_acceptance", {"apply_configs"}, 400, "the content of a file is YAML of queues"),
    (
        "positive_data_acceptance",
        {"create_bulk_action"},
        400,
        "actions depend on the state, and members of ended tasks have none",
    ),
    (
        "positive_data_acceptance",
        {"create_schedule", "replace_schedule"},
        400,
        "cron and every exclude each other, and options are those of the route that enqueues",
    ),
    ("positive_data_acceptance", {"register_worker"}, 400, "who accepts a Redis user names the process"),
    (
        "positive_data_acceptance",
        {"create_webhook", "change_webhook"},
        400,
        "rules of URLs and of headers, and queues that exist",
    ),
    (
        "positive_data_acceptance",
        {"show_queue_webhook_secret", "rotate_queue_webhook_secret"},
        400,
        "a queue without webhook_hosts has no secret",
    ),
    (
        "positive_data_acceptance",
        {"show_git_hook_secret", "rotate_git_hook_secret"},
        400,
        "a queue without `release: push` has no secret",
    ),
    ("positive_data_acceptance", {"resend_webhook_deliveries"}, 400, "ids or `failed`; an id has no fraction"),
    (
        "positive_data_acceptance",
        {"acknowledge_alerts", "snooze_alerts", "resume_alerts"},
        400,
        "an alert or a queue, and a snooze ends within 90 days",
    ),
    ("positive_data_acceptance", {"create_api_key"}, 400, "its end is past, or it has vaults and is no worker's"),
    (
        "positive_data_acceptance",
        {"set_vault_entry", "put_vault_entry"},
        400,
        "a git token has hosts, others have none",
    ),
    ("positive_data_acceptance", LISTS, 400, "a cursor is one that the list gave out"),
    (
        "positive_data_acceptance",
        {"set_vault_entry", "put_vault_entry", "set_vault_entries"},
        400,
        "reserved keys; values are counted in bytes; a git token has hosts, others have none",
    ),
    ("positive_data_acceptance", {"get_queue_stats"}, 400, "an interval ends after it begins; a step is whole minutes"),
    ("positive_data_acceptance", {"get_queue_demand"}, 400, "`target_wait` is a duration"),
    ("positive_data_acceptance", CONDITIONAL, 412, "the If-Match names another version"),
    ("negative_data_rejection", CONDITIONAL, 412, "an If-Match that is no entity tag names no version"),
    ("negative_data_rejection", {"enqueue_batch", "create_batch", "add_to_batch"}, 413, "a batch of too many tasks"),
    ("not_a_server_error", {"register_worker"}, 503, "a vault that the queue needs is missing"),
    ("not_a_server_error", {"stream_task", "stream_task_events"}, 503, "the tests let nothing wait: it stops"),
    ("missing_required_header", {"replace_config"}, 428, "what RFC 6585 has for a missing If-Match"),
    ("use_after_free", {"get_api_key"}, 200, "a revoked key stays on record"),
    ("use_after_free", {"list_vault_deliveries"}, 200, "deliveries of secrets stay recorded"),
    ("allow_header_conformance", {"reload_configs", "apply_configs"}, 405, "the path is also that of a queue"),
]


@pytest.fixture
def _is_not_limited(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no example wait for a deletion, and none be refused for the wrong keys of those before."""
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)


@pytest.fixture(scope="module")
def document(django_db_setup: None, django_db_blocker: Any) -> str:
    """Return the schema that Django serves, as JSON; to generate and to parse it takes longer than many examples."""
    with django_db_blocker.unblock():  # a request looks at the connections that tests before left
        return json.dumps(schemathesis.openapi.from_wsgi("/api/schema/", application).raw_schema)


@pytest.fixture
def django(monkeypatch: pytest.MonkeyPatch, document: str, _is_not_limited: None) -> Any:
    """Return the schema of Django's WSGI application, on which no example waits."""
    monkeypatch.setattr(WSGITransport, "send", _without_network_options(WSGITransport.send))
    monkeypatch.setattr(get_waiting_loop().waiters, "is_draining", True)
    schema = schemathesis.openapi.from_dict(json.loads(document))
    schema.app, schema.location = application, "/api/schema/"
    return _prepared(schema)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, served_data_plane: str, _is_not_limited: None) -> Any:
    """Return the schema of the server with the data plane, on which no example waits."""
    monkeypatch.setattr(get_waiting_loop().waiters, "is_draining", True)
    schema = _prepared(schemathesis.openapi.from_url(f"{served_data_plane}/api/schema/"))
    schema.config.update(request_timeout=60)  # that of schemathesis is 10 s
    return schema


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("label", [label for label in OPERATIONS if label not in ALIASES])
def test_responses_conform_to_the_schema(django: Any, label: str) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)  # those of the schema's examples

    _check_for_its_share(_operation(django, label))


@pytest.mark.usefixtures("configuration")
def test_responses_of_aliases_conform_to_the_schema(django: Any) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)

    for label in ALIASES:
        _check(_sample(django, label))


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("label", DATA_PLANE)
def test_responses_of_the_data_plane_conform_to_the_schema(server: Any, label: str) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)  # those of the schema's examples

    _check_for_its_share(_operation(server, label))


@pytest.mark.usefixtures("configuration")
def test_responses_of_django_behind_the_data_plane_conform_to_the_schema(server: Any) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)  # those of the schema's examples

    for label in OPERATIONS:
        if label not in DATA_PLANE + ALIASES:
            _check(_sample(server, label))


@pytest.mark.usefixtures("configuration")
def test_tasks_enqueued_through_the_data_plane_exist(server: Any) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)  # those of the schema's examples
    for phase in ("examples", "coverage", "fuzzing"):
        getattr(server.config.phases, phase).enabled = False
    server.config.generation.update(max_examples=2 * EXAMPLES)

    tried = _check(server.include(path_regex="^/queue/"))

    assert "ensure_resource_availability" in tried


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration")
def test_created_objects_exist_and_deleted_ones_do_not(django: Any) -> None:
    save_queue(spec=spec("inference", "high:10"), source=QueueSource.API)  # those of the schema's examples
    for phase in ("examples", "coverage", "fuzzing"):
        getattr(django.config.phases, phase).enabled = False
    django.config.generation.update(max_examples=2 * EXAMPLES)
    ends_at = time.monotonic() + SECONDS / 10

    tried = _check(django)
    while time.monotonic() < ends_at:
        tried |= _check(django)

    assert tried >= {"use_after_free", "ensure_resource_availability"}


def _prepared(schema: Any) -> Any:
    """Return a schema with all checks, for an administrator's key; generated tasks go to its queue."""
    schema.config.update(headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    schema.config.generation.update(deterministic=not SECONDS)
    # It reads the source of the whole application for values, for each operation anew: a second each.
    schema.config.analysis.constants.enabled = bool(SECONDS)
    schema.hook("map_body")(_name_existing_queue)
    return schema


def _name_existing_queue(_context: Any, body: Any) -> Any:
    """Return a body with an existing queue instead of another valid name: else hardly any task is enqueued."""
    if isinstance(body, dict) and isinstance(name := body.get("queue"), str) and 1 <= len(name) <= 256:
        return body | {"queue": "inference_high"}
    return body


def _operation(schema: Any, label: str) -> Any:
    """Return the part of a schema that is one operation."""
    schema.config.phases.stateful.enabled = False  # it goes from operation to operation; here is one
    schema.config.generation.update(max_examples=EXAMPLES)
    method, path = label.split(" ", 1)
    return schema.include(method=method, path=path)


def _sample(schema: Any, label: str) -> Any:
    """Return one operation of a schema with the schema's own examples and one more."""
    schema.config.phases.coverage.enabled = False
    operation = _operation(schema, label)
    schema.config.generation.update(max_examples=1)
    return operation


def _check_for_its_share(operation: Any) -> None:
    """Check an operation once, and again for as long as its share of the time lasts."""
    share_s = SECONDS / (len(OPERATIONS) - len(ALIASES)) * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ends_at = time.monotonic() + share_s
    _check(operation)
    while time.monotonic() < ends_at:
        _check(operation)


def _check(operations: Any) -> set[str]:
    """Send cases to operations, and return which checks there were; none may find anything."""
    tried: set[str] = set()
    wrong = []
    for event in engine.from_schema(operations).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, results in event.recorder.checks.items():
            case = event.recorder.cases[case_id].value
            tried |= {result.name for result in results}
            for result in results:
                response = event.recorder.interactions[case_id]
                if result.failure_info is not None and not _is_excepted(result, case, response):
                    failure = result.failure_info.failure
                    wrong.append(f"{result.name}: {failure.title}: {failure.message}\n{case.as_curl_command()}")
    assert not wrong, "\n\n".join(wrong)
    assert tried
    return tried


def _is_excepted(result: Any, case: Any, interaction: Any) -> bool:
    """Return whether a check may be wrong about a response."""
    name = case.operation.definition.raw["operationId"].removesuffix("_alias")
    found = result.name, interaction.response.status_code
    return any(found == (check, status) and name in operations for check, operations, status, _ in EXCEPTIONS)


def _without_network_options(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return schemathesis's `send` for requests that its checks repeat, which it gives what only a network takes."""

    def sent(*args: Any, **options: Any) -> Any:
        return send(
            *args, **{k: v for k, v in options.items() if k not in {"max_redirects", "verify", "cert", "proxies"}}
        )

    return sent
