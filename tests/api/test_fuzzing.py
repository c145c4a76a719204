"""Whatever schemathesis makes of the schema, the answers are those that the schema announces."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from queues.models import Source
from queues.operations import save_queue
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


LABELS = ["POST /queue/add", "GET /queue/{task_id}", "POST /worker/register", "GET /health"]


@pytest.mark.parametrize("label", LABELS)
def test_answers_are_as_the_schema_says(label: str, configuration: None) -> None:
    from runqy.wsgi import application  # noqa: PLC0415 (reads the settings)

    save_queue(spec=spec("simple"), source=Source.API)
    schema = schemathesis.openapi.from_wsgi("/api/schema/", application)
    operation = next(found.ok() for found in schema.get_all_operations() if found.ok().label == label)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {ADMIN_KEY}"}, checks=CHECKS)

    check()


def test_every_operation_is_tried_above(configuration: None) -> None:
    from runqy.wsgi import application  # noqa: PLC0415 (reads the settings)

    schema = schemathesis.openapi.from_wsgi("/api/schema/", application)

    assert {found.ok().label for found in schema.get_all_operations()} == set(LABELS)
