"""Routes of alerts."""

from django.urls import path

from alerts.api.viewsets import AlertViewSet

urlpatterns = [path("api/alerts", AlertViewSet.as_view({"get": "list"}), name="alerts")]
