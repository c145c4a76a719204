"""Vaults over HTTP. Only administrators get here; no answer is to be kept by anything on the way."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from runqy.api.answers import json_answer
from runqy.api.bodies import read_struct

from runqy.api.preconditions import if_match, is_known, not_modified, tagged
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, problems
from runqy.api.views import KeyedView
from vaults import operations, queries
from vaults.api import examples, outputs
from vaults.api.inputs import CreateVault


def shown(request: HttpRequest, vault: queries.VaultView, answer: Callable[[queries.VaultView], Any]) -> HttpResponse:
    """Return what there is to see of a vault, unless the client has it already."""
    if is_known(request, vault.etag):
        return not_modified(vault.etag)
    return tagged(json_answer(answer(vault)), vault.etag)


class VaultsView(KeyedView):
    """A view of vaults, which are there only while the server has a master key."""

    no_store = True

    def initial(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Let in administrators. Raises VaultLocked without a master key."""
        super().initial(request, *args, **kwargs)
        queries.require_key()


class VaultListView(VaultsView):
    """All vaults."""

    @extend_schema(
        operation_id="list_vaults",
        tags=["vaults"],
        responses={200: outputs.VaultList, **problems(401, 403, 503)},
        examples=[examples.VAULT_LIST],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """List all vaults with entry counts."""
        vaults = [outputs.vault_summary(vault) for vault in queries.list_vaults()]
        return json_answer({"vaults": vaults, "count": len(vaults)})

    @extend_schema(
        operation_id="create_vault",
        tags=["vaults"],
        request=outputs.VaultBody,
        responses={201: outputs.VaultCreated, **problems(400, 401, 403, 409, 413, 415, 503)},
        examples=[examples.VAULT_BODY, examples.VAULT_CREATED],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Create a vault."""
        asked = read_struct(request, CreateVault)
        vault = operations.create_vault(name=asked.name, description=asked.description)
        created = {"name": vault.name, "description": vault.description}
        return json_answer({"message": "vault created successfully", "vault": created}, status=201)


class VaultView(VaultsView):
    """One vault."""

    @extend_schema(
        operation_id="get_vault",
        tags=["vaults"],
        parameters=[IF_NONE_MATCH],
        responses={200: outputs.VaultOutput, 304: None, **problems(401, 403, 404, 503)},
        examples=[examples.VAULT],
    )
    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show a vault and its entries, secrets masked."""
        return shown(request, queries.get_vault(name), outputs.vault_detail)

    @extend_schema(
        operation_id="delete_vault",
        tags=["vaults"],
        parameters=[IF_MATCH],
        responses={200: outputs.Message, **problems(401, 403, 404, 412, 503)},
        examples=[examples.VAULT_DELETED],
    )
    def delete(self, request: HttpRequest, name: str) -> HttpResponse:
        """Delete a vault and all its entries."""
        operations.delete_vault(name=name, check=if_match(request))
        return json_answer({"message": "vault deleted successfully"})
