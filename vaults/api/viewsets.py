"""Vaults over HTTP, for administrators whose key is not limited to queues."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.api.etags import etag_response, if_match
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.configuration.operations import publication_result
from runqy.core.api_keys import Role
from runqy.errors import VaultEntryNotFound
from vaults import operations, queries
from vaults.access_log import list_deliveries
from vaults.api import serializers as s
from vaults.crypto import get_keyring
from vaults.entry_rules import EntryUsage
from vaults.models import EntryVersion, Vault, VaultDelivery

Row = TypeVar("Row", EntryVersion, VaultDelivery)


@method_decorator(cache_control(no_store=True), name="dispatch")
class UnlockedVaultViewSet(ApiViewSet):
    """A viewset that needs the master key."""

    roles: ClassVar = frozenset({Role.CONFIGURATOR})

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, authorise and throttle. Raise VaultLocked without a master key."""
        super().initial(request, *args, **kwargs)
        get_keyring()


class VaultViewSet(UnlockedVaultViewSet):
    """Vaults."""

    tag: ClassVar = "vaults"

    @operation(
        "list_vaults",
        s.VaultListSerializer,
    )
    def list(self, request: Request) -> Response:
        """List all vaults with entry counts."""
        vaults = queries.list_vaults()
        return Response(s.VaultListSerializer({"vaults": vaults, "count": len(vaults)}).data)

    @operation("create_vault", {201: s.VaultCreatedSerializer}, errors=(409,), request=s.CreateVaultSerializer)
    def create(self, request: Request) -> Response:
        """Create a vault."""
        with publication_result() as publication:
            vault = operations.create_vault(**s.CreateVaultSerializer.validated(request.data))
        response = s.VaultCreatedSerializer(
            {"message": "vault created successfully", "vault": vault, "published": publication.is_published}
        )
        return Response(response.data, 201)

    @operation("get_vault", {200: s.VaultSerializer, 304: None}, parameters=[IF_NONE_MATCH])
    def retrieve(self, request: Request, name: str) -> Response:
        """Show a vault and its entries, secrets masked."""
        vault = Vault.objects.get_named(name)
        return etag_response(request, s.VaultSerializer(vault).data, vault.etag)

    @operation("delete_vault", s.VaultDeletedSerializer, parameters=[IF_MATCH])
    def destroy(self, request: Request, name: str) -> Response:
        """Delete a vault and all its entries."""
        with publication_result() as publication:
            used_by = operations.delete_vault(name=name, precondition=if_match(request))
        warnings = [f"Workers cannot register for the queue {queue}, which uses the vault." for queue in used_by]
        response = s.VaultDeletedSerializer(
            {"message": "vault deleted successfully", "published": publication.is_published, "warnings": warnings}
        )
        return Response(response.data)


class VaultEntryViewSet(UnlockedVaultViewSet):
    """The entries of a vault, and their versions."""

    tag: ClassVar = "vaults"

    @operation("list_vault_entries", {200: s.VaultEntryListSerializer, 304: None}, parameters=[IF_NONE_MATCH])
    def list(self, request: Request, name: str) -> Response:
        """List the entries of a vault, secrets masked."""
        vault = Vault.objects.get_named(name)
        entries = list(vault.entries.all())
        response = s.VaultEntryListSerializer({"entries": entries, "count": len(entries)})
        return etag_response(request, response.data, vault.etag)

    @operation("set_vault_entry", s.EntrySetSerializer, parameters=[IF_MATCH], request=s.SetEntrySerializer)
    def create(self, request: Request, name: str) -> Response:
        """Set or update an entry of a vault.

        With `expected_version` only if the entry is at that version; 0 means that it does not exist. Otherwise the
        response is 412 `vault_entry_changed` with its `present_version`, and nothing is changed.
        """
        body = s.SetEntrySerializer.validated(request.data)
        return _set_entry(request, name, body["key"], body)

    @operation(
        "set_vault_entries",
        s.EntriesSetSerializer,
        parameters=[IF_MATCH],
        request=s.SetEntriesSerializer,
    )
    def set_many(self, request: Request, name: str) -> Response:
        """Set many entries of a vault, all or none if one is invalid. Other entries, and usages, stay."""
        body = s.SetEntriesSerializer.validated(request.data)
        with publication_result() as publication:
            changed = operations.set_entries(
                vault=name,
                values=body["values"],
                is_secret=body["is_secret"],
                replaces_at_once=body["replace_at_once"],
                precondition=if_match(request),
            )
        content = {"message": "entries set successfully", "changed": changed, "published": publication.is_published}
        return Response(s.EntriesSetSerializer(content).data)

    @operation("get_vault_entry", {200: s.VaultEntrySerializer, 304: None}, parameters=[IF_NONE_MATCH])
    def retrieve(self, request: Request, name: str, key: str) -> Response:
        """Show an entry of a vault, masked if it is a secret; the ETag is the vault's."""
        vault = Vault.objects.get_named(name)
        entry = next((entry for entry in vault.entries.all() if entry.key == key), None)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {name} has no entry {key[:80]!r}.")
        return etag_response(request, s.VaultEntrySerializer(entry).data, vault.etag)

    @operation(
        "put_vault_entry",
        s.EntrySetSerializer,
        parameters=[IF_MATCH],
        request=s.SetEntryValueSerializer,
    )
    def update(self, request: Request, name: str, key: str) -> Response:
        """Set an entry of a vault, as POST on its entries does."""
        return _set_entry(request, name, key, s.SetEntryValueSerializer.validated(request.data))

    @operation(
        "delete_vault_entry",
        s.EntryDeletedSerializer,
        parameters=[IF_MATCH, s.DeleteEntryQuerySerializer],
    )
    def destroy(self, request: Request, name: str, key: str) -> Response:
        """Delete an entry of a vault."""
        query = s.DeleteEntryQuerySerializer.validated(request.query_params.dict())
        with publication_result() as publication:
            operations.delete_entry(
                vault=name, key=key, expected_version=query["expected_version"], precondition=if_match(request)
            )
        response = s.EntryDeletedSerializer(
            {"message": "entry deleted successfully", "published": publication.is_published}
        )
        return Response(response.data)


class VaultEntryVersionViewSet(UnlockedVaultViewSet):
    """The versions of an entry."""

    tag: ClassVar = "vaults"
    pagination_class = SignedCursorPagination

    @operation(
        "list_vault_entry_versions",
        s.EntryVersionListSerializer,
    )
    def list(self, request: Request, name: str, key: str) -> Response:
        """List the changes of an entry, the latest first: by whom and when, never the value.

        A deleted entry keeps its versions. `rotated` has the version of the value that was encrypted with another key.
        """

        def read(limit: int, before: int | None) -> tuple[Sequence[EntryVersion], int | None]:
            return _page(queries.list_versions(name, key, before=before, limit=limit + 1), limit)

        rows = self.paginate_queryset(PagedList(read=read, position=int, identity=f"versions {name} {key}"))
        versions = s.EntryVersionSerializer(rows, many=True).data
        return self.get_paginated_response({"versions": versions, "count": len(versions)})


class VaultDeliveryViewSet(UnlockedVaultViewSet):
    """The deliveries of a vault's values to workers."""

    tag: ClassVar = "vaults"
    pagination_class = SignedCursorPagination

    @operation("list_vault_deliveries", s.VaultDeliveryListSerializer, parameters=[s.DeliveryQuerySerializer])
    def list(self, request: Request, name: str) -> Response:
        """List which workers received which versions of a vault's entries, the newest first."""
        worker_id = s.DeliveryQuerySerializer.validated(request.query_params.dict())["worker_id"]

        def read(limit: int, before: int | None) -> tuple[Sequence[VaultDelivery], int | None]:
            return _page(list_deliveries(name, worker_id=worker_id, before=before, limit=limit + 1), limit)

        found = self.paginate_queryset(PagedList(read=read, position=int, identity=f"deliveries {name} {worker_id}"))
        return self.get_paginated_response({"deliveries": s.VaultDeliverySerializer(found, many=True).data})


def _page(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], int | None]:
    """Return the rows of a page, one more of which were read, and the id after which the next page begins."""
    return rows[:limit], rows[limit - 1].pk if len(rows) > limit else None


def _set_entry(request: Request, vault: str, key: str, body: Mapping[str, Any]) -> Response:
    with publication_result() as publication:
        entry = operations.set_entry(
            vault=vault,
            key=key,
            value=body["value"],
            is_secret=body["is_secret"],
            usage=EntryUsage(body["usage"]) if "usage" in body else None,
            git_hosts=body.get("git_hosts"),
            expected_version=body.get("expected_version"),
            replaces_at_once=body["replace_at_once"],
            precondition=if_match(request),
        )
    response = s.EntrySetSerializer(
        {"message": "entry set successfully", "version": entry.version, "published": publication.is_published}
    )
    return Response(response.data)
