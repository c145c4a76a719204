"""How the value of a vault entry is displayed in the admin, the API and the CLI."""


def displayed_value(value: str, *, is_secret: bool) -> str:
    return mask(value) if is_secret else value


def mask(value: str) -> str:
    """Return a masked secret. Below 12 characters nothing of it is shown, otherwise two characters at either end."""
    return "****" if len(value) < 12 else f"{value[:2]}****{value[-2:]}"
