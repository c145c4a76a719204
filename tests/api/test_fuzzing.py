"""Whatever schemathesis makes of the schema, the answers are those that the schema announces."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from schemathesis.config import ChecksConfig

from queues import removal
from queues.models import Source
from queues.operations import save_queue
from tasks.api import creating_views, views
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

SECONDS = float(os.environ.get("RUNQY_TEST_FUZZ_SECONDS", "0"))
"""For how long all operations together are tried by `make fuzz`; without it a few examples each are."""

EXAMPLES = 8

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
LABELS = [
    f"{method.upper()} {path}"
    for path, operations in SchemaGenerator().get_schema(public=True)["paths"].items()
    for method in operations
    if method in METHODS
]

# Every check of schemathesis is on except for these. Unknown query parameters, which are accepted, need no entry:
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
EXCEPTIONS_BY_LABEL: dict[str, tuple[dict[str, Any], str]] = {
    "DELETE /api/keys/{key_id}": (
        {"use_after_free": {"enabled": False}},
        "a revoked key can still be read, for whoever asks who had it",
    ),
}


@pytest.fixture
def _does_not_wait(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no example wait for real, and none be refused for the wrong keys of those before."""
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
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
    schema.config.checks = ChecksConfig.from_dict(checks | EXCEPTIONS_BY_LABEL.get(label, ({}, ""))[0])
    operation = next(found.ok() for found in schema.get_all_operations() if found.ok().label == label)
    ends_at = time.monotonic() + SECONDS / len(LABELS) * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    @hypothesis_settings(
        max_examples=20 * EXAMPLES if SECONDS else EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        assume((case.path_parameters or {}).get("worker_id") != "queues")  # GET /workers/queues is another operation
        case.call_and_validate(headers={"Authorization": f"Bearer {ADMIN_KEY}"})

    check()
    while time.monotonic() < ends_at:
        check()


def _briefly(wait: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wait that ends almost at once, however long is asked for."""
    return lambda *args, **options: wait(*args, **options | {"longest_s": min(options["longest_s"], 0.01)})
