"""Responses of the API: JSON by msgspec, with timestamps as RFC 3339 describes them. Errors are in `exceptions`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

JSON_TYPE = "application/json"

encode_json = msgspec.json.Encoder().encode


class JSONRenderer(BaseRenderer):
    """Render JSON; a `msgspec.Raw` in the data is written byte for byte."""

    media_type = JSON_TYPE
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else encode_json(data)


class JSONOnlyNegotiation(BaseContentNegotiation):
    """Parse and render JSON whatever Content-Type and Accept are, since released clients and curl send other types."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_s(seconds: int | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else format_ns(seconds * 10**9)


def format_ns(nanoseconds: int | None) -> str | None:
    """Return Unix nanoseconds as RFC 3339 in UTC. Later times than the year 9999 become its last second."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    start = _second(seconds)
    return f"{start}.{rest // 1000:06}Z" if rest >= 1000 and start is not _END else f"{start}Z"


_END = "9999-12-31T23:59:59"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Return a Unix second, without a fraction. Cached: the timestamps of one response share few seconds."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    except OverflowError:
        return _END
