"""Queues, and the browsers of staff, for the tests of the pages of tasks."""

import pytest
from django.test import Client

from queues.definitions import FieldType, PayloadField
from queues.models import Source
from queues.operations import save_queue
from tests.queues.samples import spec
from tests.support.staff import staff_client


@pytest.fixture(autouse=True)
def queues(configuration: None) -> None:
    """Define queues of several kinds."""
    fields = (
        PayloadField(name="prompt", type=(FieldType.STRING,), required=True, description="What to draw"),
        PayloadField(name="width", type=(FieldType.INT,), default_json="512"),
    )
    for made in (
        spec("simple"),
        spec("inference", "high:10", "low:3"),
        spec("image", input=fields),
        spec("off", is_enabled=False),
    ):
        save_queue(spec=made, source=Source.API)


@pytest.fixture
def viewer(queues: None) -> Client:
    """Return the browser of somebody who only reads."""
    return staff_client("viewer")


@pytest.fixture
def operator(queues: None) -> Client:
    """Return the browser of somebody who looks after tasks."""
    return staff_client("operator")
