"""The ids of messages."""

import hashlib

_ID_DIGITS = 40


def message_id(*parts: str) -> str:
    """Return the id of the message about something, the same whenever it is made."""
    digest = hashlib.sha256(b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts))
    return f"msg_{digest.hexdigest()[:_ID_DIGITS]}"
