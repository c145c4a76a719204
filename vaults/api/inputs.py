"""What clients send about vaults."""

import msgspec


class CreateVault(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /api/vaults`."""

    name: str
    description: str = ""


class SetEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /api/vaults/{name}/entries`."""

    key: str
    value: str
    is_secret: bool = True

    def __repr__(self) -> str:
        """Name the entry, never its value."""
        return f"SetEntry(key={self.key!r})"
