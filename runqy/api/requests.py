"""The type of the requests that the API's viewsets receive."""

from collections.abc import Mapping
from dataclasses import dataclass

from rest_framework.request import Request

from runqy.core.api_keys import Identity


@dataclass(frozen=True, slots=True)
class RateLimitReport:
    """What the response to a request says about a rate limit."""

    headers: Mapping[str, str]
    refusal: str = ""
    """Why the request is refused; empty if it is not."""


class AuthenticatedRequest(Request):
    """A request that BearerTokenAuthentication has accepted. For type checkers only: DRF creates plain Requests."""

    auth: Identity
    rate_limit: RateLimitReport
    """Set by authentication and throttles where a limit concerns the request."""
