"""Routes of alerts."""

from django.urls import path

from alerts.api.viewsets import AlertViewSet

urlpatterns = [
    path("api/alerts", AlertViewSet.as_view({"get": "list"}), name="alerts"),
    path("api/alerts/acknowledge", AlertViewSet.as_view({"post": "acknowledge"}), name="acknowledge-alerts"),
    path("api/alerts/snooze", AlertViewSet.as_view({"post": "snooze"}), name="snooze-alerts"),
    path("api/alerts/resume", AlertViewSet.as_view({"post": "resume"}), name="resume-alerts"),
]
