"""Routes of API keys."""

from django.urls import path

from runqy.accounts.api.viewsets import ApiKeyViewSet, OwnApiKeyViewSet

urlpatterns = [
    path("api/keys", ApiKeyViewSet.as_view({"get": "list", "post": "create"}), name="api-keys"),
    # before the ids, which are numbers
    path("api/keys/self", OwnApiKeyViewSet.as_view({"get": "retrieve"}), name="own-api-key"),
    path("api/keys/<str:key_id>", ApiKeyViewSet.as_view({"get": "retrieve", "delete": "destroy"}), name="api-key"),
]
