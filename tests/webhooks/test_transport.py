"""No URL leads into a private network, whatever its host is written as or resolves to."""

import asyncio
import base64
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from queues.webhook_urls import parse_url
from tests.support.certificates import write_certificate
from tests.support.tls_front import tls_front
from tests.support.waiting import PATIENCE_S
from tests.webhooks.receiver import LOOPBACK, Receiver
from webhooks import transport
from webhooks.transport import RESPONSE_MAX_BYTES, Message, Outcome, Resolver, Rules, send

BODY = b'{"type":"webhook.test"}'


def post(url: str, *, context: ssl.SSLContext | None = None, timeout_s: float = PATIENCE_S, **rules: object) -> Outcome:
    message = Message(url=url, headers={"content-type": "application/json"}, body=BODY)
    rules_ = Rules(timeout_s=timeout_s, **rules)  # type: ignore[arg-type]
    return asyncio.run(send(message, rules_, context or ssl.create_default_context(), Resolver()))


def resolve_as(monkeypatch: pytest.MonkeyPatch, host: str, *answers: list[str]) -> list[str]:
    """Resolve a host to each list of addresses in turn, the last one for good; return the log of look-ups."""
    resolve, asked = socket.getaddrinfo, list[str]()

    def look_up(name: str | bytes | None, port: object, *args: object, **options: object) -> object:
        if name != host:
            return resolve(name, port, *args, **options)  # type: ignore[arg-type]
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    return asked


INSIDE = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "0", "10.0.0.1", "192.168.0.1"),
    *("169.254.169.254", "168.63.129.16", "192.0.0.192", "100.64.0.1", "224.0.0.1"),
    *("[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[3fff::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]"),
]


@pytest.mark.parametrize("host", INSIDE)
def test_no_spelling_of_a_private_address_is_requested(receiver: Receiver, host: str) -> None:
    port = receiver.server.server_address[1]

    outcomes = [post(f"{scheme}://{host}:{port}/hook") for scheme in ("http", "https")]

    assert [outcome.status for outcome in outcomes] == [None, None]
    assert all(
        "private network" in outcome.error or "cannot be resolved" in outcome.error or "Must be a URL" in outcome.error
        for outcome in outcomes
    ), outcomes
    assert receiver.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://127.0.0.1#@hooks.example.com/",
        "https://%31%32%37.0.0.1/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://hooks.example.com\t.evil.example/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "https:///x",
        "https://hooks.example.com:0/",
    ],
)
def test_a_url_that_parsers_could_read_differently_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"Must be a URL|must begin with|Must have no"):
        parse_url(url)


def test_an_international_host_is_requested_as_the_url_has_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = "xn--mnchen-3ya.example"
    write_certificate(tmp_path / "certificate.pem", host)
    context = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    resolve_as(monkeypatch, host, ["127.0.0.1"])

    with tls_front(receiver.server.server_address[1], tmp_path / "certificate.pem") as port:
        outcome = post(f"https://{host}:{port}/hook", context=context, networks=LOOPBACK)

    assert outcome.is_accepted, outcome
    assert receiver.requests[0][0]["host"] == f"{host}:{port}"
    assert parse_url(f"https://{host}/hook").allowed_as == host


def test_a_host_with_one_private_address_among_public_ones_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_as(monkeypatch, "hooks.example.com", ["93.184.216.34", "127.0.0.1"])

    outcome = post(f"https://hooks.example.com:{receiver.server.server_address[1]}/hook")

    assert "private network" in outcome.error
    assert receiver.requests == []


def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that resolves to another address the second time reaches the first one, and is looked up once."""
    port = receiver.server.server_address[1]
    asked = resolve_as(monkeypatch, "hooks.example.com", ["127.0.0.1"], ["10.255.255.1"])

    outcome = post(f"http://hooks.example.com:{port}/hook?a=1", networks=LOOPBACK)

    assert (outcome.status, outcome.is_accepted, asked) == (200, True, ["hooks.example.com"])
    assert [headers["host"] for headers, _ in receiver.requests] == [f"hooks.example.com:{port}"]


def test_the_user_in_a_url_of_the_server_is_sent_as_basic_authentication(receiver: Receiver) -> None:
    port = receiver.server.server_address[1]

    outcome = post(f"http://user:p%40ss@127.0.0.1:{port}/hook", is_trusted=True)

    assert outcome.is_accepted
    assert receiver.requests[0][0]["authorization"] == f"Basic {base64.b64encode(b'user:p@ss').decode()}"


def test_a_host_of_several_addresses_is_tried_at_each(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_as(monkeypatch, "hooks.example.com", ["127.0.0.2", "127.0.0.1"])

    outcome = post(f"http://hooks.example.com:{receiver.server.server_address[1]}/hook", networks=LOOPBACK)

    assert outcome.is_accepted


def test_tls_is_verified_for_the_name_and_not_for_the_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_certificate(tmp_path / "certificate.pem", "hooks.example.com")
    context = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    resolve_as(monkeypatch, "hooks.example.com", ["127.0.0.1"])

    with tls_front(receiver.server.server_address[1], tmp_path / "certificate.pem") as port:
        accepted = post(f"https://hooks.example.com:{port}/hook", context=context, networks=LOOPBACK)
        resolve_as(monkeypatch, "other.example.com", ["127.0.0.1"])
        refused = post(f"https://other.example.com:{port}/hook", context=context, networks=LOOPBACK)
        unknown = post(f"https://hooks.example.com:{port}/hook", networks=LOOPBACK)

    assert accepted.is_accepted
    assert "certificate" in refused.error.lower()
    assert "certificate" in unknown.error.lower()
    assert len(receiver.requests) == 1


def test_http_is_sent_only_to_open_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_as(monkeypatch, "hooks.example.com", ["93.184.216.34"])

    assert "https://" in post("http://hooks.example.com/hook", networks=LOOPBACK).error


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure(receiver: Receiver, status: int) -> None:
    receiver.status = status
    receiver.headers = {"location": f"{receiver.url}/elsewhere"}

    outcome = post(receiver.url, networks=LOOPBACK)

    assert (outcome.status, outcome.error) == (status, f"The endpoint responded with status {status}.")
    assert len(receiver.requests) == 1


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert post(receiver.url, networks=LOOPBACK).is_accepted


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """Send the head of a response in small parts until the client closes the connection."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
    while True:
        time.sleep(0.05)
        handler.wfile.write(b"x")


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing until the client closes the connection."""
    handler.connection.recv(1)


@pytest.mark.parametrize("respond", [trickle, hang])
def test_a_response_that_does_not_come_in_time_is_a_failure(receiver: Receiver, respond) -> None:
    receiver.respond = respond

    assert post(receiver.url, networks=LOOPBACK, timeout_s=0.5).error == "No response within 0.5 s."


def test_a_resolver_that_hangs_delays_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    test_is_over, resolve = threading.Event(), socket.getaddrinfo

    def look_up(host: str | bytes, *args: object, **options: object) -> object:
        if host != "hooks.example.com":
            return resolve(host, *args, **options)  # type: ignore[arg-type]
        test_is_over.wait(PATIENCE_S)
        return []

    monkeypatch.setattr("socket.getaddrinfo", look_up)

    assert post("https://hooks.example.com/hook", timeout_s=0.2).error == "No response within 0.2 s."
    test_is_over.set()


def test_only_the_beginning_of_a_response_is_read(receiver: Receiver) -> None:
    sent = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 100_000)
            sent.append(1)

    receiver.respond = respond

    outcome = post(receiver.url, networks=LOOPBACK)

    assert (outcome.is_accepted, outcome.response) == (True, b"x" * RESPONSE_MAX_BYTES)
    assert receiver.responded.wait(PATIENCE_S)
    assert len(sent) < 1000


def test_the_message_arrives_as_it_was_given(receiver: Receiver) -> None:
    post(receiver.url, networks=LOOPBACK)

    ((headers, body),) = receiver.requests
    assert (headers["content-type"], json.loads(body)) == ("application/json", {"type": "webhook.test"})


def test_messages_within_a_second_share_a_look_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "RESOLVED_FOR_S", PATIENCE_S)
    asked = resolve_as(monkeypatch, "hooks.example", ["127.0.0.1"])
    url = receiver.url.replace("localhost", "hooks.example")

    async def send_twice() -> list[Outcome]:
        resolver, context = Resolver(), ssl.create_default_context()
        message = Message(url=url, headers={}, body=BODY)
        rules = [Rules(timeout_s=PATIENCE_S, networks=networks) for networks in (LOOPBACK, LOOPBACK, ())]
        return [await send(message, each, context, resolver) for each in rules]

    outcomes = asyncio.run(send_twice())

    assert [each.status for each in outcomes] == [200, 200, None]  # the rules of each message apply
    assert asked == ["hooks.example"]
