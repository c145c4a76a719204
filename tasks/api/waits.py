"""How long a client waits for the end of a task: `?wait=` or `Prefer: wait=` (RFC 7240)."""

import re
from collections.abc import Mapping

import msgspec
from drf_spectacular.utils import OpenApiParameter

from runqy import durations
from runqy.errors import RequestInvalid

MAX_WAIT_S = 300

WAIT_PARAMETERS = [
    OpenApiParameter(
        "wait",
        str,
        description=f"Wait for the end of the task: seconds or a duration such as `1m`, at most {MAX_WAIT_S} s",
    ),
    OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=<seconds>`, RFC 7240"),
]

_PREFERRED = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)", re.IGNORECASE)


class Wait(msgspec.Struct, frozen=True):
    """How long a client waits."""

    seconds: float
    """0: not at all."""
    is_preference: bool = False
    """Requested by `Prefer`, so that the response names what was applied."""

    def headers(self) -> dict[str, str]:
        """Return the headers that confirm a preference."""
        return {"Preference-Applied": f"wait={self.seconds:.0f}"} if self.is_preference else {}


def parse_wait(query: str | None, headers: Mapping[str, str]) -> Wait:
    """Return how long a client waits; longer than MAX_WAIT_S is MAX_WAIT_S. `query` is the parameter `wait`.

    Raises RequestInvalid for what is not a duration.
    """
    if query is None:
        preferred = _PREFERRED.search(headers.get("Prefer", ""))
        return Wait(min(float(preferred[1]), MAX_WAIT_S), is_preference=True) if preferred else Wait(0)
    try:
        seconds = float(query) if re.fullmatch(r"[0-9]*\.[0-9]+", query) else durations.parse_ns(query) / 1e9
    except ValueError as error:
        raise RequestInvalid(errors=[f"wait: {error}"]) from error
    return Wait(min(seconds, MAX_WAIT_S))
