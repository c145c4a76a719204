"""Whatever schemathesis makes of the schema, the answers are those that the schema announces."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from schemathesis import engine
from schemathesis.config import ChecksConfig
from schemathesis.engine import events
from schemathesis.transport.wsgi import WSGITransport

from queues import removal
from queues.models import Source
from queues.operations import save_queue
from tasks.api import creating_views, views
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

SECONDS = float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0"))
"""For how long all operations together are tried by `make fuzz`; without it a few examples each are."""

EXAMPLES = 5

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
LABELS = [
    f"{method.upper()} {path}"
    for path, operations in SchemaGenerator().get_schema(public=True)["paths"].items()
    for method in operations
    if method in METHODS
]

# Every check of schemathesis is on except for these; use_after_free, ensure_resource_availability and
# object_level_authorization have nothing to look at while each operation is tried by itself.
# Unknown query parameters, which are accepted, need no entry:
# negative_data_rejection passes over them itself.
EXCEPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "positive_data_acceptance": (
        {"expected-statuses": ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "422", "428", "429"]},
        "400: queues, payloads and dates have rules that JSON Schema does not express; 428: an If-Match is missing; "
        "412: it names another version; 422: an Idempotency-Key was used for another body",
    ),
    "missing_required_header": (
        {"expected-statuses": ["400", "401", "403", "406", "415", "422", "428"]},
        "a missing If-Match answers 428, RFC 6585",
    ),
    "negative_data_rejection": (
        {"expected-statuses": ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "428"]},
        "412: an If-Match that is no entity tag names no version",
    ),
}


@pytest.fixture
def _does_not_wait(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no example wait for real, and none be refused for the wrong keys of those before."""
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
    monkeypatch.setattr(WSGITransport, "send", _without_network_options(WSGITransport.send))
    monkeypatch.setattr(removal, "SETTLE_S", 0)
    monkeypatch.setattr(creating_views, "await_queued_task", _briefly(creating_views.await_queued_task))
    monkeypatch.setattr(views, "await_task", _briefly(views.await_task))


@pytest.mark.timeout(180 + SECONDS)
@pytest.mark.usefixtures("configuration", "_does_not_wait")
@pytest.mark.parametrize("label", LABELS)
def test_answers_are_as_the_schema_says(label: str) -> None:
    from runqy.wsgi import application  # noqa: PLC0415 (reads the settings)

    save_queue(spec=spec("simple"), source=Source.API)
    schema = schemathesis.openapi.from_wsgi("/api/schema/", application)
    checks = {name: options for name, (options, _) in EXCEPTIONS.items()}
    schema.config.checks = ChecksConfig.from_dict(checks)
    schema.config.update(headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    schema.config.phases.stateful.enabled = False  # it goes from operation to operation; here is one
    schema.config.generation.update(max_examples=20 * EXAMPLES if SECONDS else EXAMPLES)
    method, path = label.split(" ", 1)
    operation = schema.include(method=method, path=path)
    ends_at = time.monotonic() + SECONDS / len(LABELS) * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    _check(operation, label)
    while time.monotonic() < ends_at:
        _check(operation, label)


def _check(operation: Any, label: str) -> None:
    """Send the systematic cases (with other methods, without headers, ...) and then the random ones."""
    tried, wrong = 0, []
    for event in engine.from_schema(operation).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, results in event.recorder.checks.items():
            tried += len(results)
            case = event.recorder.cases[case_id].value
            if label == "GET /workers/{worker_id}" and case.path_parameters == {"worker_id": "queues"}:
                continue  # GET /workers/queues is another operation
            for result in results:
                if result.failure_info is not None:
                    failure = result.failure_info.failure
                    wrong.append(f"{result.name}: {failure.title}: {failure.message}\n{case.as_curl_command()}")
    assert not wrong, "\n\n".join(wrong)
    assert tried


def _briefly(wait: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wait that ends almost at once, however long is asked for."""
    return lambda *args, **options: wait(*args, **options | {"longest_s": min(options["longest_s"], 0.01)})


def _without_network_options(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return schemathesis's `send` for requests that its checks repeat, which it gives what only a network takes."""

    def sent(*args: Any, **options: Any) -> Any:
        return send(
            *args, **{k: v for k, v in options.items() if k not in {"max_redirects", "verify", "cert", "proxies"}}
        )

    return sent
