"""Routes of API keys."""

from django.urls import path

from runqy.accounts.api.viewsets import ApiKeyViewSet

urlpatterns = [
    path("api/keys", ApiKeyViewSet.as_view({"get": "list", "post": "create"}), name="api-keys"),
    path("api/keys/<str:key_id>", ApiKeyViewSet.as_view({"get": "retrieve", "delete": "destroy"}), name="api-key"),
]
