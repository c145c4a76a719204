"""Fixtures of the data plane's tests."""

from collections.abc import Iterator

import pytest

from runqy.server.dataplane.bodies import BodyReader
from tests.dataplane.servers import Client, PatientProtocol, QuickProtocol, build, echo, serve


@pytest.fixture(scope="package")
def client() -> Iterator[Client]:
    """Return a client of a server whose application returns what it sees of a request."""
    with serve(build(echo)) as started:
        yield started


@pytest.fixture(scope="package")
def patient_client() -> Iterator[Client]:
    """Return a client of such a server that reads for long what a refused client still sends."""
    with serve(build(echo), PatientProtocol) as started:
        yield started


@pytest.fixture(scope="package")
def impatient_client() -> Iterator[Client]:
    """Return a client of such a server with short time limits."""
    bodies = BodyReader(max_bytes=100_000, memory_bytes=400_000, timeout_s=1.0)
    with serve(build(echo, bodies=bodies), QuickProtocol) as started:
        yield started
