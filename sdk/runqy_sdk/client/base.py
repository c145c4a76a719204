"""What both clients share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from runqy_sdk.client.errors import ConfigurationError
from runqy_sdk.client.operations import Call
from runqy_sdk.client.settings import find_server


class Connection:
    """The server of a client, and how it is asked."""

    def __init__(
        self, url: str | None, api_key: str | None, profile: str | None, timeout: float, retry_for: float
    ) -> None:
        self.url, key = find_server(url, api_key, profile)
        if timeout <= 0 or retry_for < 0:
            raise ConfigurationError("timeout is a number of seconds above 0, retry_for one from 0")
        self.timeout = timeout
        self.retry_for = retry_for
        self.options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {key}", "User-Agent": "runqy-sdk"},
            "verify": httpx2.create_ssl_context(),  # takes long, and both pools need it
        }
        # What waits keeps its connection for long. It has a pool of its own, where the server's limit is the limit, so
        # that other requests never wait for one of these connections.
        self.waiting_options: dict[str, Any] = {**self.options, "limits": httpx2.Limits()}

    def request(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a request for the HTTP library."""
        headers: Mapping[str, str] = {"Content-Type": "application/json"} if call.body is not None else {}
        # A full pool is no reason to call the server unreachable.
        timeout = httpx2.Timeout(self.timeout, read=self.timeout + call.extra_timeout_s, pool=None)
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.query),
            "content": call.body,
            "headers": {**headers, **call.headers},
            "timeout": timeout,
        }

    def describe(self, error: httpx2.TransportError) -> str:
        return f"{self.url} cannot be reached: {str(error) or type(error).__name__}"
