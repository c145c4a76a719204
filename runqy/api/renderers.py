"""Responses of the API: JSON by msgspec. Errors are in `exceptions`."""

from collections.abc import Mapping
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
