"""API keys over HTTP, for administrators whose own key is not limited to queues."""

from typing import Annotated, ClassVar

import msgspec
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.accounts.api import examples
from runqy.accounts.api import serializers as s
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.queries import get_api_key, list_api_keys_page
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.configuration.operations import publication_result
from runqy.core.api_keys import Role
from runqy.errors import ApiKeyNotFound

_MAX_ID_DIGITS = 18
_KEY_ID = OpenApiParameter("key_id", OpenApiTypes.INT64, OpenApiParameter.PATH)
_LastId = Annotated[int, msgspec.Meta(ge=0, lt=10**_MAX_ID_DIGITS)]


@method_decorator(cache_control(no_store=True), name="dispatch")
class ApiKeyViewSet(ApiViewSet):
    """API keys."""

    tag: ClassVar = "keys"
    pagination_class = SignedCursorPagination

    @operation("list_api_keys", s.ApiKeyListSerializer, examples=[examples.KEY_LIST])
    def list(self, request: Request) -> Response:
        """List API keys, newest first, without the keys themselves."""
        keys = self.paginate_queryset(PagedList(read=list_api_keys_page, position=_LastId, identity="keys"))
        return self.get_paginated_response({"keys": s.ApiKeySerializer(keys, many=True).data, "count": len(keys)})

    @operation(
        "create_api_key",
        {201: s.ApiKeyCreatedSerializer},
        request=s.CreateApiKeySerializer,
        examples=[examples.KEY_BODY, examples.KEY_CREATED],
    )
    def create(self, request: Request) -> Response:
        """Create an API key. Only this response contains the key itself."""
        body = s.CreateApiKeySerializer.validated(request.data)
        with publication_result() as publication:
            created = create_api_key(
                name=body["name"],
                role=Role(body["role"]),
                queues=body["queues"],
                vaults=body["vaults"],
                expires_at=body["expires_at"],
                rate_limit=body["rate_limit"],
                allow_shared_redis=body["allow_shared_redis"],
            )
        response = s.ApiKeyCreatedSerializer(
            {
                "message": "API key created successfully",
                "key": created.plain,
                "api_key": created.row,
                "warnings": created.warnings,
                "published": publication.is_published,
            }
        )
        return Response(response.data, 201, headers={"Location": f"/api/keys/{created.row.pk}"})

    @operation("get_api_key", s.ApiKeyDetailSerializer, parameters=[_KEY_ID], examples=[examples.KEY])
    def retrieve(self, request: Request, key_id: str) -> Response:
        """Return an API key, without the key itself."""
        return Response(s.ApiKeyDetailSerializer(get_api_key(_parse_id(key_id))).data)

    @operation(
        "revoke_api_key",
        s.ApiKeyRevokedSerializer,
        errors=(409,),
        parameters=[_KEY_ID, s.RevokeQuerySerializer],
        examples=[examples.KEY_REVOKED],
    )
    def destroy(self, request: Request, key_id: str) -> Response:
        """Revoke an API key permanently; every server refuses it within two seconds, also while Redis is unavailable.

        With `descendants` the keys that it created, directly or indirectly, are revoked with it, all or none. Batches
        that they created go on, unless `cancel_batches` cancels them. An already revoked key is then not an error as
        long as something is left to do.
        """
        query = s.RevokeQuerySerializer.validated(request.query_params.dict())
        with publication_result() as publication:
            revoked = revoke_api_key(
                key_id=_parse_id(key_id),
                with_descendants=query["descendants"],
                cancel_batches=query["cancel_batches"],
            )
        response = s.ApiKeyRevokedSerializer(
            {
                "message": "API key revoked successfully",
                "revoked": revoked,
                "published": publication.is_published,
            }
        )
        return Response(response.data)


@method_decorator(cache_control(no_store=True), name="dispatch")
class OwnApiKeyViewSet(ApiViewSet):
    """The key of a request."""

    tag: ClassVar = "keys"
    roles: ClassVar = frozenset(Role)
    needs_confirmed_configuration = False

    @operation("get_own_api_key", s.OwnApiKeySerializer, examples=[examples.OWN_KEY])
    def retrieve(self, request: AuthenticatedRequest) -> Response:
        """Return what the key of the request may do."""
        return Response(s.OwnApiKeySerializer(request.auth).data)


def _parse_id(text: str) -> int:
    """Return the id of a key. Raise ApiKeyNotFound for other text."""
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_ID_DIGITS:
        raise ApiKeyNotFound
    return int(text)
