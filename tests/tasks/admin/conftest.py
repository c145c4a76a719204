"""Queues and logged-in clients for tests of the admin pages of tasks."""

import pytest
from django.test import Client

from queues.definitions import FieldType, PayloadField
from runqy.broker.broker import Broker
from runqy.broker.tasks.lease import LeasedTask
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.staff import staff_client
from tests.support.tasks import put, take_one


@pytest.fixture(autouse=True)
def queues(configuration: None) -> None:
    """Define queues of several kinds."""
    fields = (
        PayloadField(name="prompt", type=(FieldType.STRING,), required=True, description="What to draw"),
        PayloadField(name="width", type=(FieldType.INT,), default_json="512"),
    )
    store_queues(
        spec("simple"),
        spec("inference", "high:10", "low:3"),
        spec("image", input=fields),
        spec("off", is_enabled=False),
    )


@pytest.fixture
def viewer(queues: None) -> Client:
    """Return the client of a user with the role viewer."""
    return staff_client("viewer")


@pytest.fixture
def operator(queues: None) -> Client:
    """Return the client of a user with the role operator."""
    return staff_client("operator")


@pytest.fixture
def taken(single_broker: Broker) -> LeasedTask:
    """Return a task that runs."""
    put(single_broker, "t1", queue="simple", retention_s=3600)
    return take_one(single_broker, "simple")
