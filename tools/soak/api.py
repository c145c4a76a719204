"""The HTTP API as the soak's clients use it."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

UNREACHABLE = 0  # the status of a request that got no response


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response, or the fact that there was none."""

    status: int
    content: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def is_unclear(self) -> bool:
        """Whether the request may have been done or not, or will be done if it is sent again."""
        return self.status in (UNREACHABLE, 429, 503, 504)


class Client:
    """A client with a key and one connection, which is opened again after it was lost. For one thread."""

    def __init__(self, port: int, key: str, *, timeout_s: float = 8.0, statuses: Counter[str] | None = None) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._key = key
        # How often there was which response; shared by the clients of a run.
        self.statuses: Counter[str] = Counter() if statuses is None else statuses

    def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request; return its response, or UNREACHABLE if there is none."""
        sent = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", **(headers or {})}
        began_s = time.monotonic()
        try:
            self._http.request(method, path, None if body is None else json.dumps(body), sent)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, HTTPException):
            self._http.close()
            self.statuses["no response"] += 1
            return Reply(status=UNREACHABLE, took_s=time.monotonic() - began_s)
        is_json = "json" in (response.getheader("Content-Type") or "")
        reply = Reply(
            status=response.status,
            content=json.loads(content) if is_json and content else {},
            took_s=time.monotonic() - began_s,
        )
        self.statuses[f"{reply.status} {reply.content.get('code', '')}".strip()] += 1
        return reply

    def get(self, path: str) -> dict[str, Any]:
        """Return the body of a 200. Raise RuntimeError for any other status."""
        return self._require("GET", path, None)

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        """Return the body of a 200. Raise RuntimeError for any other status."""
        return self._require("POST", path, body)

    def send_until_clear(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None, timeout_s: float
    ) -> Reply:
        """Send a request again until its outcome is clear or the time is up; return the last reply."""
        deadline = time.monotonic() + timeout_s
        while True:
            reply = self.send(method, path, body, headers)
            if not reply.is_unclear or time.monotonic() > deadline:
                return reply
            time.sleep(0.1)

    def close(self) -> None:
        self._http.close()

    def _require(self, method: str, path: str, body: object) -> dict[str, Any]:
        reply = self.send_until_clear(method, path, body, timeout_s=30)
        if reply.status != 200:
            raise RuntimeError(f"{method} {path}: {reply.status} {reply.content}")
        return reply.content


def idempotency_key() -> str:
    """Return a new key, for a request that may be sent again."""
    return secrets.token_hex(16)
