"""Routes of vaults."""

from django.urls import path

from vaults.api.viewsets import VaultDeliveryViewSet, VaultEntryVersionViewSet, VaultEntryViewSet, VaultViewSet

_ENTRIES = "api/vaults/<str:name>/entries"

urlpatterns = [
    path("api/vaults", VaultViewSet.as_view({"get": "list", "post": "create"}), name="vaults"),
    path("api/vaults/<str:name>", VaultViewSet.as_view({"get": "retrieve", "delete": "destroy"}), name="vault"),
    path("api/vaults/<str:name>/deliveries", VaultDeliveryViewSet.as_view({"get": "list"}), name="vault-deliveries"),
    path(
        _ENTRIES,
        VaultEntryViewSet.as_view({"get": "list", "post": "create", "patch": "set_many"}),
        name="vault-entries",
    ),
    path(
        f"{_ENTRIES}/<str:key>",
        VaultEntryViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}),
        name="vault-entry",
    ),
    path(
        f"{_ENTRIES}/<str:key>/versions", VaultEntryVersionViewSet.as_view({"get": "list"}), name="vault-entry-versions"
    ),
]
