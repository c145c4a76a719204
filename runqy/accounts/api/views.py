"""API keys over HTTP, for administrators. No answer is to be kept by anything on the way."""

from django.http import HttpRequest, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from runqy.accounts.api import examples, outputs
from runqy.accounts.api.inputs import CreateKey, KeyId
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.queries import get_api_key, list_api_keys_page
from runqy.api.answers import json_answer
from runqy.api.bodies import read_struct
from runqy.api.pagination import PAGE_PARAMETERS, page_answer, read_cursor, read_limit
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.errors import ApiKeyNotFound

_LONGEST_ID = 18
"""Digits, with which a number fits into a column."""
_ID = OpenApiParameter("key_id", OpenApiTypes.INT64, OpenApiParameter.PATH)


class KeysView(KeyedView):
    """A view of keys. An administrator of some queues gets nowhere near, and so to no key without limits."""

    no_store = True


class KeyListView(KeysView):
    """All keys."""

    @extend_schema(
        operation_id="list_api_keys",
        tags=["keys"],
        parameters=PAGE_PARAMETERS,
        responses={200: outputs.KeyList, **problems(400, 401, 403, 503)},
        examples=[examples.KEY_LIST],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """List API keys, the newest first, without the keys themselves."""
        page = list_api_keys_page(limit=read_limit(request), below=read_cursor(request, KeyId))
        keys = [outputs.key_detail(key) for key in page.keys]
        return page_answer(request, {"keys": keys, "count": len(keys)}, page.end)

    @extend_schema(
        operation_id="create_api_key",
        tags=["keys"],
        request=outputs.KeyBody,
        responses={201: outputs.KeyCreated, **problems(400, 401, 403, 413, 415, 503)},
        examples=[examples.KEY_BODY, examples.KEY_CREATED],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Create an API key, which is shown in this answer only."""
        asked = read_struct(request, CreateKey)
        created = create_api_key(name=asked.name, role=asked.role, queues=asked.queues, expires_at=asked.expires_at)
        answer = json_answer(
            {
                "message": "API key created successfully",
                "key": created.plain,
                "api_key": outputs.key_detail(created.row),
            },
            status=201,
        )
        answer["Location"] = f"/api/keys/{created.row.pk}"
        return answer


class KeyView(KeysView):
    """One key."""

    @extend_schema(
        operation_id="get_api_key",
        tags=["keys"],
        parameters=[_ID],
        responses={200: outputs.KeyOutput, **problems(401, 403, 404, 503)},
        examples=[examples.KEY],
    )
    def get(self, request: HttpRequest, key_id: str) -> HttpResponse:
        """Show what an API key may do and when it was last used."""
        return json_answer(outputs.key_detail(get_api_key(_number(key_id))))

    @extend_schema(
        operation_id="revoke_api_key",
        tags=["keys"],
        parameters=[_ID],
        responses={200: outputs.KeyRevoked, **problems(401, 403, 404, 409, 503)},
        examples=[examples.KEY_REVOKED],
    )
    def delete(self, request: HttpRequest, key_id: str) -> HttpResponse:
        """Revoke an API key, for good; every server refuses it within a second."""
        revoked = revoke_api_key(key_id=_number(key_id))
        return json_answer({"message": "API key revoked successfully", "api_key": outputs.key_detail(revoked)})


def _number(text: str) -> int:
    """Return the number of a row. Raises ApiKeyNotFound for what none has."""
    if not (text.isascii() and text.isdigit()) or len(text) > _LONGEST_ID:
        raise ApiKeyNotFound
    return int(text)
