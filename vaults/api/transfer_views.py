"""Whole vaults over HTTP, sealed under a passphrase."""

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from runqy.api.answers import json_answer
from runqy.api.bodies import read_struct

from runqy.api.schema import problems
from vaults import transfer
from vaults.api import examples, outputs
from vaults.api.inputs import ExportVault, ImportVault
from vaults.api.views import VaultsView


class ExportView(VaultsView):
    """A vault on its way out."""

    @extend_schema(
        operation_id="export_vault",
        tags=["vaults"],
        request=outputs.ExportBody,
        responses={200: outputs.SealedExport, **problems(400, 401, 403, 404, 413, 415, 503)},
        examples=[examples.EXPORT_BODY, examples.EXPORT],
    )
    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Export a vault with all its values, sealed under a passphrase.

        The answer is the file that `manage.py import_vault` and the import below take. It is recorded in the audit.
        """
        asked = read_struct(request, ExportVault)
        content = transfer.export_vault(name=name, passphrase=asked.passphrase)
        answer = json_answer(msgspec.Raw(content))
        answer["Content-Disposition"] = f'attachment; filename="{name}.runqy-vault.json"'
        return answer


class ImportView(VaultsView):
    """A vault on its way in."""

    @extend_schema(
        operation_id="import_vault",
        tags=["vaults"],
        request=outputs.ImportBody,
        responses={200: outputs.ImportOutput, **problems(400, 401, 403, 409, 413, 415, 503)},
        examples=[examples.IMPORT_BODY, examples.IMPORTED],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Import a vault that was exported, all of it or nothing.

        With `replace` a vault that is there becomes as the export says: what the export does not have is removed. With
        `dry_run` nothing is done, and the answer tells what would be.
        """
        asked = read_struct(request, ImportVault)
        content = msgspec.json.encode(asked.export)
        if asked.dry_run:
            preview = transfer.preview_import(content=content, passphrase=asked.passphrase, name=asked.name)
            return json_answer(outputs.import_answer("nothing was changed", preview))
        done = transfer.import_vault(
            content=content, passphrase=asked.passphrase, name=asked.name, replace=asked.replace
        )
        return json_answer(outputs.import_answer("vault imported successfully", done))
