"""The entries of a vault over HTTP, one by one, and their versions."""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from runqy.api.answers import json_answer
from runqy.api.bodies import read_struct

from runqy.api.pagination import PAGE_PARAMETERS, page_answer, read_cursor, read_limit
from runqy.api.preconditions import if_match
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, problems
from runqy.errors import RequestInvalid, VaultEntryNotFound
from vaults import operations, queries
from vaults.api import examples, outputs
from vaults.api.inputs import HIGHEST_VERSION, PutEntry, SetEntry
from vaults.api.views import VaultsView, shown

_CHANGE = (400, 401, 403, 404, 412, 413, 415, 503)
_EXPECTED = OpenApiParameter(
    "expected_version",
    {"type": "integer", "minimum": 0, "maximum": HIGHEST_VERSION},
    description="Only if the entry is at this version; 0: only if it does not exist",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCursor:
    """Where a list of versions goes on."""

    before: int


class EntryListView(VaultsView):
    """The entries of a vault."""

    @extend_schema(
        operation_id="list_vault_entries",
        tags=["vaults"],
        parameters=[IF_NONE_MATCH],
        responses={200: outputs.EntryList, 304: None, **problems(401, 403, 404, 503)},
        examples=[examples.ENTRY_LIST],
    )
    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """List the entries of a vault, secrets masked."""
        return shown(request, queries.get_vault(name), outputs.entry_list)

    @extend_schema(
        operation_id="set_vault_entry",
        tags=["vaults"],
        parameters=[IF_MATCH],
        request=outputs.EntryBody,
        responses={200: outputs.EntrySet, **problems(*_CHANGE)},
        examples=[examples.ENTRY_BODY, examples.ENTRY_SET],
    )
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Set or update an entry of a vault.

        With `expected_version` only if the entry is at that version, and 0 means that it does not exist; otherwise 412
        `vault_entry_changed` tells its `present_version`, and nothing is changed.
        """
        asked = read_struct(request, SetEntry)
        return _set(request, name, asked.key, asked)


class EntryView(VaultsView):
    """One entry of a vault."""

    @extend_schema(
        operation_id="get_vault_entry",
        tags=["vaults"],
        parameters=[IF_NONE_MATCH],
        responses={200: outputs.VaultEntryOutput, 304: None, **problems(401, 403, 404, 503)},
        examples=[examples.ENTRY],
    )
    def get(self, request: HttpRequest, name: str, key: str) -> HttpResponse:
        """Show an entry of a vault, masked if it is a secret; the ETag is the vault's."""
        vault = queries.get_vault(name)
        entry = next((entry for entry in vault.entries if entry.key == key), None)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {name} has no entry {key[:80]!r}.")
        return shown(request, vault, lambda _: outputs.entry_answer(entry))

    @extend_schema(
        operation_id="put_vault_entry",
        tags=["vaults"],
        parameters=[IF_MATCH],
        request=outputs.EntryValue,
        responses={200: outputs.EntrySet, **problems(*_CHANGE)},
        examples=[examples.ENTRY_VALUE, examples.ENTRY_SET],
    )
    def put(self, request: HttpRequest, name: str, key: str) -> HttpResponse:
        """Set an entry of a vault, as POST on its entries does."""
        return _set(request, name, key, read_struct(request, PutEntry))

    @extend_schema(
        operation_id="delete_vault_entry",
        tags=["vaults"],
        parameters=[IF_MATCH, _EXPECTED],
        responses={200: outputs.Message, **problems(400, 401, 403, 404, 412, 503)},
        examples=[examples.ENTRY_DELETED],
    )
    def delete(self, request: HttpRequest, name: str, key: str) -> HttpResponse:
        """Delete an entry of a vault."""
        only_if = _condition(request, _expected_version(request))
        operations.delete_entry(vault=name, key=key, only_if=only_if)
        return json_answer({"message": "entry deleted successfully"})


class EntryVersionsView(VaultsView):
    """What happened to an entry."""

    @extend_schema(
        operation_id="list_vault_entry_versions",
        tags=["vaults"],
        parameters=PAGE_PARAMETERS,
        responses={200: outputs.VersionPage, **problems(400, 401, 403, 404, 503)},
        examples=[examples.VERSION_PAGE],
    )
    def get(self, request: HttpRequest, name: str, key: str) -> HttpResponse:
        """List what happened to an entry, the latest first: who and when, never the value.

        A deleted entry has its versions still. `rotated` has the number of the value that was encrypted anew.
        """
        limit, cursor = read_limit(request), read_cursor(request, VersionCursor)
        rows = queries.list_versions(name, key, before=cursor.before if cursor else None, limit=limit + 1)
        shown_rows, is_more = rows[:limit], len(rows) > limit
        content = {"versions": [outputs.version_answer(row) for row in shown_rows], "count": len(shown_rows)}
        return page_answer(request, content, VersionCursor(before=shown_rows[-1].pk) if is_more else None)


def _set(request: HttpRequest, vault: str, key: str, asked: PutEntry) -> HttpResponse:
    """Set an entry as it was asked for."""
    only_if = _condition(request, asked.expected_version)
    entry = operations.set_entry(vault=vault, key=key, value=asked.value, is_secret=asked.is_secret, only_if=only_if)
    return json_answer({"message": "entry set successfully", "version": entry.version})


def _condition(request: HttpRequest, expected_version: int | None) -> operations.Condition:
    """Return under which condition a request wants an entry to be changed."""
    return operations.Condition(check=if_match(request), expected_version=expected_version)


def _expected_version(request: HttpRequest) -> int | None:
    """Return the version that a query expects. Raises RequestInvalid."""
    text = request.GET.get("expected_version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > HIGHEST_VERSION:
        raise RequestInvalid(errors=[f"expected_version: must be a whole number from 0 to {HIGHEST_VERSION}"])
    return int(text)
