"""Examples of the vault routes in the schema, as the reference shows them."""

from drf_spectacular.utils import OpenApiExample

_VAULT = {"name": "api-keys", "description": "API keys for external services"}
_TIMES = {"created_at": "2024-01-15T10:30:00Z", "updated_at": "2024-01-15T12:45:00Z"}
_MASKED = {"key": "OPENAI_API_KEY", "value": "sk****yz", "is_secret": True}
_USE = {"usage": "environment", "git_hosts": []}
_ENTRY = {**_MASKED, "version": 2, "updated_by": "admin key of the environment", **_TIMES, **_USE}
_TOKEN = {"key": "GITHUB_TOKEN", "value": "ghp-your-token-here", "usage": "git_token", "git_hosts": ["github.com"]}
_NEW_ENTRY = {"key": "OPENAI_API_KEY", "value": "sk-your-key-here", "is_secret": True}


def _response(value: object, status: int = 200) -> OpenApiExample:
    """Return an example of a response."""
    return OpenApiExample("Response", value, response_only=True, status_codes=[str(status)])


VAULT_LIST = _response({"vaults": [{**_VAULT, "entry_count": 3}], "count": 1})
VAULT_BODY = OpenApiExample("Request", _VAULT, request_only=True)
VAULT_CREATED = _response({"message": "vault created successfully", "vault": _VAULT, "published": True}, 201)
VAULT = _response({**_VAULT, "entries": [_ENTRY], **_TIMES})
VAULT_DELETED = _response({"message": "vault deleted successfully", "published": True})
ENTRY_LIST = _response({"entries": [_ENTRY], "count": 1})
ENTRY_BODY = OpenApiExample("Request", _NEW_ENTRY, request_only=True)
TOKEN_BODY = OpenApiExample("A git token", _TOKEN, request_only=True)
ENTRY = _response(_ENTRY)
ENTRY_VALUE = OpenApiExample("Request", {"value": "sk-your-key-here", "expected_version": 1}, request_only=True)
ENTRY_SET = _response({"message": "entry set successfully", "version": 2, "published": True})
ENTRY_DELETED = _response({"message": "entry deleted successfully", "published": True})
DELIVERY_LIST = _response(
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
VERSION_PAGE = _response(
    {
        "versions": [
            {
                "version": 2,
                "event": "set",
                "at": "2024-01-15T12:45:00Z",
                "actor_kind": "key",
                "actor": "admin key of the environment",
            },
            {"version": 1, "event": "set", "at": "2024-01-15T10:30:00Z", "actor_kind": "user", "actor": "ada"},
        ],
        "count": 2,
        "next": None,
    }
)

_EXPORT = {
    "format": "runqy-vault",
    "version": 1,
    "kdf": {"name": "scrypt", "n": 131072, "r": 8, "p": 1, "salt": "b1R3jV0Gq1u2yqkM7m9f0w=="},
    "cipher": {"name": "aes-256-gcm", "nonce": "q83vEjRWeJASNFZ4"},
    "data": "mH1bV3v7d1Jr3q0l4yqK0m4c5t8T9Q==",
}
_PHRASE = "correct horse battery staple"
EXPORT_BODY = OpenApiExample("Request", {"passphrase": _PHRASE}, request_only=True)
EXPORT = _response(_EXPORT)
IMPORT_BODY = OpenApiExample("Request", {"passphrase": _PHRASE, "export": _EXPORT, "dry_run": True}, request_only=True)
IMPORTED = _response(
    {
        "message": "nothing was changed",
        "vault": "api-keys",
        "is_new": False,
        "entries": [{"key": "OPENAI_API_KEY", "outcome": "changed"}, {"key": "REGION", "outcome": "unchanged"}],
        "published": True,
    }
)
