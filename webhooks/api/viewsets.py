"""Webhook endpoints over HTTP, for administrators; a key that is limited to queues reaches those of its queues."""

from functools import partial
from typing import Annotated, ClassVar

import msgspec
from django.utils.decorators import method_decorator
from django.utils.http import quote_etag
from django.views.decorators.cache import cache_control
from rest_framework.response import Response

from queues.webhook_secrets import rotate_queue_secret, show_queue_secret
from runqy.api.etags import etag_response, if_match
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from webhooks.api import serializers as s
from webhooks.operations import (
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    resend_deliveries,
    rotate_endpoint_secret,
    schedule_test,
)
from webhooks.queries import get_endpoint, list_deliveries, list_endpoints, list_warnings

_LastId = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]


@method_decorator(cache_control(no_store=True), name="dispatch")
class QueueSecretViewSet(ApiViewSet):
    """The secret that signs the webhooks of a queue's tasks."""

    tag: ClassVar = "webhooks"
    allows_queue_scoped_keys: ClassVar = True

    @operation("show_queue_webhook_secret", s.SecretSerializer, errors=(400, 409), request=None)
    def show(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Return the secret that signs the webhooks of a queue's tasks, this once; then it is 409."""
        secret = show_queue_secret(queue, allowed_queues=request.auth.queues)
        return Response(s.SecretSerializer({"secret": secret}).data)

    @operation("rotate_queue_webhook_secret", s.SecretSerializer, errors=(400,), request=None)
    def rotate(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Give a queue a new webhook secret; for 24 hours messages are signed with the old one too."""
        secret = rotate_queue_secret(queue, allowed_queues=request.auth.queues)
        return Response(s.SecretSerializer({"secret": secret}).data)


@method_decorator(cache_control(no_store=True), name="dispatch")
class WebhookViewSet(ApiViewSet):
    """Webhook endpoints."""

    tag: ClassVar = "webhooks"
    roles: ClassVar = frozenset({Role.CONFIGURATOR})
    allows_queue_scoped_keys: ClassVar = True

    @operation(
        "list_webhooks",
        s.EndpointListSerializer,
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List webhook endpoints, newest first, without their secrets."""
        found = list_endpoints(allowed_queues=request.auth.queues)
        return Response(s.EndpointListSerializer({"webhooks": found}).data)

    @operation(
        "create_webhook",
        {201: s.CreatedEndpointSerializer},
        errors=(404,),
        request=s.CreateEndpointSerializer,
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Create an endpoint: a webhook, Slack or e-mail. Only this response contains the secret of a webhook.

        It is told of tasks that are enqueued from now on, and of alerts that open or are resolved from now on.
        """
        body = s.CreateEndpointSerializer.validated(request.data)
        created = create_endpoint(**body, allowed_queues=request.auth.queues)
        warnings = list_warnings(get_broker(), created.row)
        response = s.CreatedEndpointSerializer(created.row, context={"secret": created.secret, "warnings": warnings})
        return Response(response.data, 201, headers={"Location": f"/api/webhooks/{created.row.pk}"})

    @operation("get_webhook", {200: s.EndpointSerializer, 304: None}, parameters=[IF_NONE_MATCH])
    def retrieve(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Return a webhook endpoint, without its secret. Send its ETag as If-Match to change this version only."""
        endpoint = get_endpoint(webhook_id, allowed_queues=request.auth.queues)
        return etag_response(request, s.EndpointSerializer(endpoint).data, endpoint.version)

    @operation(
        "change_webhook",
        s.SavedEndpointSerializer,
        parameters=[IF_MATCH],
        request=s.ChangeEndpointSerializer,
    )
    def partial_update(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Change members of a webhook endpoint. `enabled: true` ends that the server disabled it."""
        body = s.ChangeEndpointSerializer.validated(request.data, partial=True)
        changed = change_endpoint(
            webhook_id, **body, allowed_queues=request.auth.queues, precondition=if_match(request)
        )
        warnings = list_warnings(get_broker(), changed)
        response = s.SavedEndpointSerializer(changed, context={"warnings": warnings})
        return Response(response.data, headers={"ETag": quote_etag(changed.version)})

    @operation("delete_webhook", s.EndpointDeletedSerializer, parameters=[IF_MATCH])
    def destroy(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Delete a webhook endpoint with its deliveries. Nothing more is sent to it."""
        delete_endpoint(webhook_id, allowed_queues=request.auth.queues, precondition=if_match(request))
        return Response(s.EndpointDeletedSerializer({"message": "Webhook endpoint deleted"}).data)

    @operation("rotate_webhook_secret", s.SecretSerializer, errors=(400,), request=None)
    def rotate(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Give a webhook endpoint a new secret; for 24 hours messages are signed with the old one too."""
        secret = rotate_endpoint_secret(webhook_id, allowed_queues=request.auth.queues)
        return Response(s.SecretSerializer({"secret": secret}).data)

    @operation("send_test_event", {201: s.DeliverySerializer}, errors=(409,), request=None)
    def test(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Send a message of the type `webhook.test` to a webhook endpoint; its deliveries show what came of it."""
        return Response(s.DeliverySerializer(schedule_test(webhook_id, allowed_queues=request.auth.queues)).data, 201)

    @operation("resend_webhook_deliveries", s.ResentSerializer, request=s.ResendSerializer)
    def resend(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """Send deliveries again, with the same ids."""
        ids = s.ResendSerializer.validated(request.data).get("deliveries")
        resent = resend_deliveries(webhook_id, ids, allowed_queues=request.auth.queues)
        return Response(s.ResentSerializer({"resent": resent}).data)


@method_decorator(cache_control(no_store=True), name="dispatch")
class WebhookDeliveryViewSet(ApiViewSet):
    """What was sent to a webhook endpoint."""

    # Not viewers: messages may have results.
    tag: ClassVar = "webhooks"
    read_roles: ClassVar = frozenset({Role.OPERATOR, Role.CONFIGURATOR})
    allows_queue_scoped_keys: ClassVar = True
    pagination_class = SignedCursorPagination

    @operation(
        "list_webhook_deliveries",
        s.DeliveryListSerializer,
    )
    def list(self, request: AuthenticatedRequest, webhook_id: str) -> Response:
        """List what was sent to a webhook endpoint in the last seven days, newest first."""
        endpoint = get_endpoint(webhook_id, allowed_queues=request.auth.queues)
        read = partial(list_deliveries, endpoint)
        found = self.paginate_queryset(PagedList(read=read, position=_LastId, identity=f"deliveries {webhook_id}"))
        return self.get_paginated_response({"deliveries": s.DeliverySerializer(found, many=True).data})
