"""Send a message to a URL, and nowhere else: every address that its host has is checked, and the connection goes to
one of the checked addresses.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

import httpx2

from queues.webhook_urls import WebhookUrl, find_address_error, parse_url
from runqy.core.concurrency.threads import run_in_thread
from runqy.core.environment.variables import Network

RESPONSE_MAX_BYTES = 4096
RESOLVED_FOR_S = 1.0
_BODY_WAIT_S = 2.0
"""How long to wait for the body of a response, whose head has already said whether it was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Where messages may be sent besides the public internet."""

    networks: Sequence[Network] = ()
    """Networks that are open, also to http."""
    is_trusted: bool = False
    """Whether the administrator of the server chose the URL, so that any address may be used, also by http."""
    timeout_s: float
    """For a whole attempt, from the look-up of the host to the head of the response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt to send a message."""

    error: str = ""
    """Why it was not accepted; empty if it was."""
    status: int | None = None
    retry_after: str = ""
    response: bytes = b""
    duration_ms: int = 0

    @property
    def is_accepted(self) -> bool:
        return not self.error


class _Refused(Exception):
    """The URL may not be requested."""


class Resolver:
    """Looks up the addresses of hosts, of one event loop.

    An answer serves other messages within a second: the loop waits for each thread to start, for milliseconds while
    other threads are busy.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, asyncio.Task[list[str]]]] = {}

    async def look_up(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. Raise OSError, UnicodeError."""
        now = monotonic()
        if (host, port) not in self._known or self._known[host, port][0] <= now:
            self._known = {key: found for key, found in self._known.items() if found[0] > now}
            looking = asyncio.create_task(_look_up(host, port))
            looking.add_done_callback(lambda done: done.cancelled() or done.exception())  # each caller raises it
            self._known[host, port] = (now + RESOLVED_FOR_S, looking)
        # A caller that gives up must not end the look-up of the others.
        return await asyncio.shield(self._known[host, port][1])


async def _look_up(host: str, port: int) -> list[str]:
    # Not in the loop's executor, whose threads a resolver that hangs would use up.
    found = await run_in_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def send(message: Message, rules: Rules, context: ssl.SSLContext, resolver: Resolver) -> Outcome:
    """Send a message once, without following redirects.

    On an event loop, because httpx limits only each read and write: a response that trickles in could take hours.
    """
    began_at = monotonic()

    def end(**outcome: Any) -> Outcome:
        return Outcome(**outcome, duration_ms=round((monotonic() - began_at) * 1000))

    try:
        return end(**await _send(message, rules, context, resolver))
    except TimeoutError:
        return end(error=f"No response within {rules.timeout_s:g} s.")
    except _Refused as error:
        return end(error=str(error))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return end(error=str(error) or type(error).__name__)


async def _send(message: Message, rules: Rules, context: ssl.SSLContext, resolver: Resolver) -> dict[str, Any]:
    # One connection a message: a pooled one is known by its address alone, and could be another host's. No proxy of
    # the environment either, which would look up the host again.
    limits = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=None, limits=limits) as client:
        async with asyncio.timeout(rules.timeout_s):
            response = await _request(client, message, rules, resolver)
        try:
            return await _read(response)
        finally:
            await response.aclose()


async def _request(client: httpx2.AsyncClient, message: Message, rules: Rules, resolver: Resolver) -> httpx2.Response:
    """Return the head of the response of the first address that accepts a connection."""
    try:
        url = parse_url(message.url, may_have_user=rules.is_trusted)
    except ValueError as error:
        raise _Refused(str(error)) from error
    *others, last = await _find_addresses(url, rules, resolver)
    for address in others:
        with suppress(httpx2.ConnectError):
            return await client.send(_build_request(client, message, url, address), stream=True, follow_redirects=False)
    return await client.send(_build_request(client, message, url, last), stream=True, follow_redirects=False)


def _build_request(client: httpx2.AsyncClient, message: Message, url: WebhookUrl, address: str) -> httpx2.Request:
    pinned = httpx2.URL(message.url)
    return client.build_request(
        "POST",
        pinned.copy_with(host=address),
        content=message.body,
        headers={**message.headers, "host": pinned.netloc.decode()},
        extensions={"sni_hostname": url.host},
    )


async def _find_addresses(url: WebhookUrl, rules: Rules, resolver: Resolver) -> list[str]:
    """Return the addresses of the host. Raise _Refused if one of them may not be used."""
    try:
        addresses = await resolver.look_up(url.host, url.port)
    except (OSError, UnicodeError) as error:
        raise _Refused(f"The host {url.host} cannot be resolved.") from error
    if not addresses:
        raise _Refused(f"The host {url.host} cannot be resolved.")
    if rules.is_trusted:
        return addresses
    if reason := find_address_error(url, addresses, rules.networks):
        raise _Refused(reason)
    return addresses


async def _read(response: httpx2.Response) -> dict[str, Any]:
    """Return the outcome in a response: its head decides, its body is only kept."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_WAIT_S):
            async for chunk in response.aiter_raw():  # not decoded: a small body may expand to gigabytes
                body += chunk
                if len(body) >= RESPONSE_MAX_BYTES:
                    break
    except (TimeoutError, httpx2.HTTPError):
        pass
    status = response.status_code
    return {
        "error": "" if response.is_success else f"The endpoint responded with status {status}.",
        "status": status,
        "retry_after": response.headers.get("retry-after", ""),
        "response": body[:RESPONSE_MAX_BYTES],
    }
