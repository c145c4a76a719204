"""Routes of webhooks."""

from django.urls import path

from webhooks.api.viewsets import QueueSecretViewSet, WebhookDeliveryViewSet, WebhookViewSet

urlpatterns = [
    path(
        "api/cli/queues/<str:queue>/webhook-secret",
        QueueSecretViewSet.as_view({"post": "show"}),
        name="queue-webhook-secret",
    ),
    path(
        "api/cli/queues/<str:queue>/webhook-secret/rotate",
        QueueSecretViewSet.as_view({"post": "rotate"}),
        name="rotate-queue-webhook-secret",
    ),
    path("api/webhooks", WebhookViewSet.as_view({"get": "list", "post": "create"}), name="webhooks"),
    path(
        "api/webhooks/<str:webhook_id>",
        WebhookViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="webhook",
    ),
    path("api/webhooks/<str:webhook_id>/rotate", WebhookViewSet.as_view({"post": "rotate"}), name="rotate-webhook"),
    path("api/webhooks/<str:webhook_id>/test", WebhookViewSet.as_view({"post": "test"}), name="test-webhook"),
    path("api/webhooks/<str:webhook_id>/resend", WebhookViewSet.as_view({"post": "resend"}), name="resend-webhook"),
    path(
        "api/webhooks/<str:webhook_id>/deliveries",
        WebhookDeliveryViewSet.as_view({"get": "list"}),
        name="webhook-deliveries",
    ),
]
