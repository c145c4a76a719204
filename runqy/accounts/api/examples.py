"""Examples of the API key routes in the schema."""

from typing import Any

from drf_spectacular.utils import OpenApiExample

_FIELDS = {
    "name": "shop",
    "role": "client",
    "queues": ["inference"],
    "expires_at": "2027-01-01T00:00:00Z",
    "rate_limit": "600/m",
}
_KEY: dict[str, Any] = {
    "id": 7,
    "prefix": "rq_4fT0aZk",
    **_FIELDS,
    "created_at": "2026-01-15T10:30:00Z",
    "revoked_at": None,
    "last_used_at": None,
    "created_by_kind": "key",
    "created_by": "deployment",
    "created_by_key": 3,
    "vaults": [],
    "allow_shared_redis": False,
    "is_personal": False,
}
_REVOKED = _KEY | {"revoked_at": "2026-02-01T08:00:00Z", "last_used_at": "2026-02-01T07:59:00Z"}


def _response(value: object, status: int = 200) -> OpenApiExample:
    return OpenApiExample("Response", value, response_only=True, status_codes=[str(status)])


KEY_BODY = OpenApiExample("Request", _FIELDS, request_only=True)
KEY_CREATED = _response(
    {
        "message": "API key created successfully",
        "key": "rq_4fT0aZkQ8mWc2LxYtR6vB1nHs9uJeDoP3gKi7A",
        "api_key": _KEY,
        "warnings": [],
        "published": True,
    },
    201,
)
KEY_LIST = _response({"keys": [_KEY], "count": 1, "next": None})
KEY = _response({**_KEY, "waiting_members": 0})
KEY_REVOKED = _response(
    {
        "message": "API key revoked successfully",
        "api_key": _REVOKED,
        "accepted_descendants": 2,
        "revoked_descendants": [],
        "waiting_members": 250,
        "canceled_batches": 0,
        "published": True,
    }
)
OWN_KEY = _response({"id": "7", "name": "shop", "role": "client", "queues": ["inference"], "vaults": []})
