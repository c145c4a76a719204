"""Queues and clients for the tests of the tasks API."""

import pytest

from queues.definitions import FieldType, LimitOverrides, PayloadField
from runqy.config_sync.snapshot import get_snapshot
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY


@pytest.fixture
def queues(configuration: None) -> None:
    """Define queues of several kinds."""
    fields = (
        PayloadField(name="prompt", type=(FieldType.STRING,), required=True),
        PayloadField(name="width", type=(FieldType.INT,), default_json="512"),
        PayloadField(name="style", type=(FieldType.STRING,), default_json='"plain"'),
    )
    limits = LimitOverrides(max_retry=7, active_timeout_s=90, ttl_completed_s=60, ttl_archived_s=120)
    store_queues(
        spec("simple"),
        spec("inference", "high:10", "low:3"),
        spec("image", input=fields),
        spec("optional", input=fields[1:]),
        spec("limited", limits=limits),
        spec("off", is_enabled=False),
    )
    get_snapshot()  # for operations that are run by themselves


@pytest.fixture
def client(queues: None, each_plane: str) -> ApiClient:
    """Return a client with the role client. Each test runs against DRF's viewsets, and against the data plane."""
    return ApiClient(CLIENT_KEY)
