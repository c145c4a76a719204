"""What of a vault entry's value is displayed: in the admin, the API and the CLI."""


def displayed_value(value: str, *, is_secret: bool) -> str:
    """Return the value, masked if it is a secret."""
    return mask(value) if is_secret else value


def mask(value: str) -> str:
    """Return a masked secret: nothing of one below 12 characters, else two characters at either end."""
    return "****" if len(value) < 12 else f"{value[:2]}****{value[-2:]}"
