"""Whatever schemathesis makes of the schema, the answers are those that the schema announces."""

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

from queues import removal
from queues.models import Source
from queues.operations import save_queue
from runqy.wsgi import application
from tasks.waiting_loop import get_waiting_loop
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

SECONDS = float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0"))
"""For how long all operations together are tried: 60 in CI, 600 by `make fuzz`; without it a few examples each."""

EXAMPLES = max(5, int(SECONDS) // 6)
"""How many of each operation are made up in a round; those that the schema gives away are tried besides."""

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
LABELS = [
    f"{method.upper()} {path}"
    for path, operations in SchemaGenerator().get_schema(public=True)["paths"].items()
    for method in operations
    if method in METHODS
]

# Every check of schemathesis is on. What it finds all the same is in this table, or is a defect: the check, the
# operations, and the statuses with which it may be wrong.
TASKS = {"enqueue_task", "create_task", "enqueue_batch"}
CONFIGS = {"create_config", "replace_config"}
CONDITIONAL = CONFIGS | {"delete_config", "delete_vault", "set_vault_entry", "put_vault_entry", "delete_vault_entry"}
LISTS = {"list_tasks", "list_api_keys", "list_vault_deliveries", "list_vault_entry_versions"}
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
    ("positive_data_acceptance", {"create_api_key"}, 400, "its end is past"),
    ("positive_data_acceptance", LISTS, 400, "a cursor is one that the list gave out"),
    (
        "positive_data_acceptance",
        {"set_vault_entry", "put_vault_entry"},
        400,
        "reserved keys; values are counted in bytes",
    ),
    ("positive_data_acceptance", {"import_vault"}, 400, "only what was exported opens"),
    ("positive_data_acceptance", CONDITIONAL, 412, "the If-Match names another version"),
    ("negative_data_rejection", CONDITIONAL, 412, "an If-Match that is no entity tag names no version"),
    ("negative_data_rejection", {"enqueue_batch"}, 413, "a batch of too many tasks"),
    ("not_a_server_error", {"register_worker"}, 503, "a vault that the queue needs is missing"),
    ("missing_required_header", {"replace_config"}, 428, "what RFC 6585 has for a missing If-Match"),
    ("use_after_free", {"get_api_key"}, 200, "a revoked key stays on record"),
    ("use_after_free", {"list_vault_deliveries"}, 200, "who was handed out secrets stays on record"),
    ("allow_header_conformance", {"reload_configs"}, 405, "the path is also the one of a queue called reload"),
]


@pytest.fixture
def _does_not_wait(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no example wait for real, and none be refused for the wrong keys of those before."""
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
    monkeypatch.setattr(WSGITransport, "send", _without_network_options(WSGITransport.send))
    monkeypatch.setattr(removal, "SETTLE_S", 0)
    monkeypatch.setattr(get_waiting_loop().waiters, "is_draining", True)


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration", "_does_not_wait")
@pytest.mark.parametrize("label", LABELS)
def test_answers_are_as_the_schema_says(label: str) -> None:
    save_queue(spec=spec("simple"), source=Source.API)
    method, path = label.split(" ", 1)
    schema = _schema(application)
    schema.config.phases.stateful.enabled = False  # it goes from operation to operation; here is one
    schema.config.generation.update(max_examples=EXAMPLES)
    operation = schema.include(method=method, path=path)
    ends_at = time.monotonic() + SECONDS / len(LABELS) * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    _check(operation)
    while time.monotonic() < ends_at:
        _check(operation)


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration", "_does_not_wait")
def test_what_was_made_is_there_and_what_was_deleted_is_not() -> None:
    save_queue(spec=spec("simple"), source=Source.API)
    schema = _schema(application)
    for phase in ("examples", "coverage", "fuzzing"):
        getattr(schema.config.phases, phase).enabled = False
    schema.config.generation.update(max_examples=2 * EXAMPLES)
    ends_at = time.monotonic() + SECONDS / 10

    tried = _check(schema)
    while time.monotonic() < ends_at:
        tried |= _check(schema)

    assert tried >= {"use_after_free", "ensure_resource_availability"}


def _schema(application: Any) -> Any:
    """Return the schema with all checks, asked for with the administrator's key."""
    schema = schemathesis.openapi.from_wsgi("/api/schema/", application)
    schema.config.update(headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    return schema


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
                answered = event.recorder.interactions[case_id]
                if result.failure_info is not None and not _is_excepted(result, case, answered):
                    failure = result.failure_info.failure
                    wrong.append(f"{result.name}: {failure.title}: {failure.message}\n{case.as_curl_command()}")
    assert not wrong, "\n\n".join(wrong)
    assert tried
    return tried


def _is_excepted(result: Any, case: Any, interaction: Any) -> bool:
    """Tell whether a check may be wrong about an answer."""
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
