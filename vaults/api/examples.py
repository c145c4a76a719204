"""Requests and answers of the vault routes as the reference shows them."""

from drf_spectacular.utils import OpenApiExample

_VAULT = {"name": "api-keys", "description": "API keys for external services"}
_TIMES = {"created_at": "2024-01-15T10:30:00Z", "updated_at": "2024-01-15T12:45:00Z"}
_ENTRY = {"key": "OPENAI_API_KEY", "value": "sk****yz", "is_secret": True, **_TIMES}
_NEW_ENTRY = {"key": "OPENAI_API_KEY", "value": "sk-your-key-here", "is_secret": True}


def _answer(value: object, status: int = 200) -> OpenApiExample:
    """Return an example of an answer."""
    return OpenApiExample("Answer", value, response_only=True, status_codes=[str(status)])


VAULT_LIST = _answer({"vaults": [{**_VAULT, "entry_count": 3}], "count": 1})
VAULT_BODY = OpenApiExample("Request", _VAULT, request_only=True)
VAULT_CREATED = _answer({"message": "vault created successfully", "vault": _VAULT}, 201)
VAULT = _answer({**_VAULT, "entries": [_ENTRY], **_TIMES})
VAULT_DELETED = _answer({"message": "vault deleted successfully"})
ENTRY_LIST = _answer({"entries": [_ENTRY], "count": 1})
ENTRY_BODY = OpenApiExample("Request", _NEW_ENTRY, request_only=True)
ENTRY_SET = _answer({"message": "entry set successfully"})
ENTRY_DELETED = _answer({"message": "entry deleted successfully"})
DELIVERY_LIST = _answer(
    {
        "deliveries": [
            {
                "id": 7,
                "worker_id": "gpu-1:4711:3f1c09",
                "queue": "inference",
                "versions": {"OPENAI_API_KEY": 3},
                "is_current": True,
                "delivered_at": "2024-01-15T12:46:00Z",
                "api_key": "gpu machines",
                "address": "10.0.0.7",
            }
        ],
        "next": None,
    }
)
