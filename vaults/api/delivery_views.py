"""Who was handed out what of a vault, over HTTP."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from runqy.api.moments import moment_of

from runqy.api.pagination import PAGE_PARAMETERS, page_answer, read_cursor, read_limit
from runqy.api.schema import problems
from runqy.errors import RequestInvalid
from vaults.api.examples import DELIVERY_LIST
from vaults.api.views import VaultsView
from vaults.delivery_queries import DeliveryView, list_deliveries


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cursor:
    """Where a list of deliveries goes on, and whose list it is."""

    after: int
    worker_id: str


class DeliveryOutput(serializers.Serializer[DeliveryView]):
    """A delivery in the schema."""

    id = serializers.IntegerField()
    worker_id = serializers.CharField()
    queue = serializers.CharField(help_text="The queue that the worker registered for")
    versions = serializers.DictField(
        child=serializers.IntegerField(), help_text="Versions of the entries whose values it got, by their keys"
    )
    is_current = serializers.BooleanField(help_text="Nothing of the vault was set or deleted since")
    delivered_at = serializers.DateTimeField()
    api_key = serializers.CharField(help_text="The name of the API key that it registered with")
    address = serializers.CharField(allow_blank=True, help_text="Where the request came from")


class DeliveryList(serializers.Serializer[object]):
    """A page of deliveries, the newest first."""

    deliveries = DeliveryOutput(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null: this is the last")


class DeliveryListView(VaultsView):
    """The deliveries of one vault."""

    @extend_schema(
        operation_id="list_vault_deliveries",
        tags=["vaults"],
        parameters=[OpenApiParameter("worker_id", str, description="Only to this worker"), *PAGE_PARAMETERS],
        responses={200: DeliveryList, **problems(400, 401, 403, 404, 503)},
        examples=[DELIVERY_LIST],
    )
    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """List which workers were handed out which versions of a vault's entries, the newest first."""
        worker_id = request.GET.get("worker_id", "")
        cursor = read_cursor(request, _Cursor)
        if cursor is not None and cursor.worker_id != worker_id:
            raise RequestInvalid(errors=["cursor: is of a list of another worker"])
        after = cursor.after if cursor else None
        page = list_deliveries(name, limit=read_limit(request), worker_id=worker_id, after=after)
        end = None if page.end is None else _Cursor(after=page.end, worker_id=worker_id)
        return page_answer(request, {"deliveries": [_delivery(view) for view in page.deliveries]}, end)


def _delivery(view: DeliveryView) -> dict[str, Any]:
    """Return a delivery in the list."""
    record = view.record
    return {
        "id": record.pk,
        "worker_id": record.worker_id,
        "queue": record.queue,
        "versions": record.versions,
        "is_current": view.is_current,
        "delivered_at": moment_of(record.at),
        "api_key": record.key_name,
        "address": record.address,
    }
