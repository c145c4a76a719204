"""Redis behind TLS."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.support.certificates import write_certificate
from tests.support.event_loop import run_with_broker
from tests.support.redis_client import redis_of
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
    port = redis_of(single_broker).connection_pool.connection_kwargs["port"]
    with tls_front(port, certificate) as front:
        yield RedisTarget(addresses=(("127.0.0.1", front),), use_tls=True)


def connected(target: RedisTarget, **changes: Any) -> Broker:
    """Return a broker for a target with some changes."""
    return Broker(replace(target, **changes))


def authority_of(certificate: Path, *, is_text: bool) -> str:
    """Return a certificate in the form of a target: its text, or its path."""
    text = certificate.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :] if is_text else str(certificate)


def echo(text: str | bytes) -> Request[bytes]:
    return Request((command("ECHO", text, key=None),), lambda replies: replies[0])


@pytest.mark.parametrize("is_text", [False, True])
def test_a_task_is_stored_and_read_through_tls(target: RedisTarget, certificate: Path, is_text: bool) -> None:
    authority = authority_of(certificate, is_text=is_text)
    broker = connected(target, ca_certificate=authority)

    put(broker, "t1", payload=b"x" * 100_000)

    assert take_one(broker).message.payload == b"x" * 100_000
    broker.close()


def test_an_unknown_authority_is_refused(target: RedisTarget) -> None:
    broker = connected(target)

    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        put(broker, "t1")
    broker.close()


def test_a_certificate_for_another_host_is_refused(
    single_broker: Broker, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "monotonic_s", lambda: 0.0)  # after a slow failure the next attempt names only that
    port = redis_of(single_broker).connection_pool.connection_kwargs["port"]
    with tls_front(port, certificate, host="127.0.0.2") as front:
        target = RedisTarget(addresses=(("127.0.0.2", front),), use_tls=True, ca_certificate=str(certificate))
        broker = Broker(target)
        with pytest.raises(BrokerUnavailable, match="certificate verify failed: IP address mismatch"):
            put(broker, "t1")
        broker.close()


@pytest.mark.parametrize("is_text", [False, True])
def test_requests_work_through_tls_on_an_event_loop(target: RedisTarget, certificate: Path, is_text: bool) -> None:
    target = replace(target, ca_certificate=authority_of(certificate, is_text=is_text))

    async def act(broker: AsyncBroker) -> list[bytes]:
        return await asyncio.gather(*(broker.send(echo(text)) for text in texts))

    texts = [*(b"%d" % i * 40_000 for i in range(20)), b"large" * 400_000]
    assert run_with_broker(target, act) == texts


def test_certificates_are_verified_on_an_event_loop(single_broker: Broker, certificate: Path) -> None:
    port = redis_of(single_broker).connection_pool.connection_kwargs["port"]

    async def act(broker: AsyncBroker) -> bytes:
        return await broker.send(echo("x"))

    with tls_front(port, certificate, host="127.0.0.2") as front:
        target = RedisTarget(addresses=(("127.0.0.2", front),), use_tls=True)
        with pytest.raises(BrokerUnavailable, match="certificate verify failed: self-signed"):
            run_with_broker(target, act)
        with pytest.raises(BrokerUnavailable, match="certificate verify failed: IP address mismatch"):
            run_with_broker(replace(target, ca_certificate=str(certificate)), act)
