"""What both clients share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from runqy_sdk.client.errors import ConfigurationError
from runqy_sdk.client.operations import Call, Reply, decode


class Connection:
    """The server of a client, and how it is asked.

    `server` is its URL and the key, which may be empty. `transport` takes the place of the network, and `decode` is how
    JSON is read.
    """

    def __init__(
        self,
        server: tuple[str, str],
        timeout: float,
        retry_for: float = 0,
        *,
        transport: Any = None,
        decode: Callable[[bytes | str], Any] = decode,
    ) -> None:
        self.url, key = server
        if timeout <= 0 or retry_for < 0:
            raise ConfigurationError("timeout is a number of seconds above 0, retry_for one from 0")
        self.timeout = timeout
        self.retry_for = retry_for
        self.decode = decode
        self.options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"User-Agent": "runqy-sdk", **({"Authorization": f"Bearer {key}"} if key else {})},
            # Takes long, and both pools need it.
            "verify": self.url.startswith("https:") and httpx2.create_ssl_context(),
            "transport": transport,
        }
        # What waits keeps its connection for long. It has a pool of its own, where the server's limit is the limit, so
        # that other requests never wait for one of these connections.
        self.waiting_options: dict[str, Any] = {**self.options, "limits": httpx2.Limits()}

    def request(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a request for the HTTP library."""
        headers: Mapping[str, str] = {"Content-Type": "application/json"} if call.body is not None else {}
        # A full pool is no reason to call the server unreachable.
        read_s = self.timeout + call.extra_timeout_s
        timeout = httpx2.Timeout(min(self.timeout, read_s), read=read_s, pool=None)
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.query) or None,  # an empty mapping would drop those of the path
            "content": call.body,
            "headers": {**headers, **call.headers},
            "timeout": timeout,
        }

    def reply(self, response: httpx2.Response) -> Reply:
        return Reply(response.status_code, response.headers, response.content, self.decode)

    def describe(self, error: httpx2.TransportError) -> str:
        return f"{self.url} cannot be reached: {str(error) or type(error).__name__}"
