"""Redis behind TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.support.certificates import write_certificate
from tests.support.tasks import put, take_one
from tests.support.tls_front import tls_front


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a certificate for this machine that no authority signed."""
    path = tmp_path / "certificate.pem"
    write_certificate(path, "redis.example.org")
    return path


@pytest.fixture
def target(single_broker: Broker, certificate: Path) -> Iterator[RedisTarget]:
    """Return how to reach the tests' Redis with TLS, trusting no authority yet."""
    port = single_broker.client.connection_pool.connection_kwargs["port"]
    with tls_front(port, certificate) as front:
        yield RedisTarget(addresses=(("127.0.0.1", front),), use_tls=True)


def connected(target: RedisTarget, **changes: object) -> Broker:
    """Return a broker for a target with some changes."""
    fields = {name: getattr(target, name) for name in RedisTarget.__dataclass_fields__}
    return Broker.connect(RedisTarget(**{**fields, **changes}))


@pytest.mark.parametrize("is_text", [False, True])
def test_a_task_goes_and_comes_through_tls(target: RedisTarget, certificate: Path, is_text: bool) -> None:
    text = certificate.read_text()
    authority = text[text.index("-----BEGIN CERTIFICATE") :] if is_text else str(certificate)
    broker = connected(target, ca_certificate=authority)

    put(broker, "t1", payload=b"x" * 100_000)

    assert take_one(broker).message.payload == b"x" * 100_000
    broker.close()


def test_an_unknown_authority_is_refused(target: RedisTarget) -> None:
    broker = connected(target)

    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        put(broker, "t1")
    broker.close()


def test_a_certificate_for_another_host_is_refused(single_broker: Broker, certificate: Path) -> None:
    port = single_broker.client.connection_pool.connection_kwargs["port"]
    with tls_front(port, certificate, host="127.0.0.2") as front:
        target = RedisTarget(addresses=(("127.0.0.2", front),), use_tls=True, ca_certificate=str(certificate))
        broker = Broker.connect(target)

        with pytest.raises(BrokerUnavailable, match="certificate verify failed: IP address mismatch"):
            put(broker, "t1")
        broker.close()
