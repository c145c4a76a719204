"""What clients send about vaults."""

from typing import Annotated, Any

import msgspec

HIGHEST_VERSION = 2**31 - 1

_Version = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_VERSION)]


class CreateVault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/vaults`."""

    name: str
    description: str = ""


class PutEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /api/vaults/{name}/entries/{key}`; a misspelled condition must not become none."""

    value: str
    is_secret: bool = True
    expected_version: _Version | None = None

    def __repr__(self) -> str:
        """Say nothing of the value."""
        return f"{type(self).__name__}()"


class SetEntry(PutEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/vaults/{name}/entries`."""

    key: str


class ExportVault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/vaults/{name}/export`."""

    passphrase: str

    def __repr__(self) -> str:
        """Say nothing of the passphrase."""
        return "ExportVault()"


class ImportVault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/vaults/import`; a misspelled `dry_run` must not become an import."""

    passphrase: str
    export: dict[str, Any]
    name: str = ""
    replace: bool = False
    dry_run: bool = False

    def __repr__(self) -> str:
        """Say nothing of the passphrase."""
        return "ImportVault()"
