"""The type of the requests that the API's viewsets receive."""

from rest_framework.request import Request

from runqy.api_keys import Identity


class AuthenticatedRequest(Request):
    """A request that BearerTokenAuthentication has accepted; for type checkers, DRF creates plain Requests."""

    auth: Identity
