"""Routes of schedules."""

from django.urls import path

from schedules.api.viewsets import ScheduleViewSet

_ONE = "api/schedules/<str:name>"

urlpatterns = [
    path("api/schedules", ScheduleViewSet.as_view({"get": "list", "post": "create"}), name="schedules"),
    path(_ONE, ScheduleViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}), name="schedule"),
    path(f"{_ONE}/trigger", ScheduleViewSet.as_view({"post": "trigger"}), name="trigger-schedule"),
    path(f"{_ONE}/pause", ScheduleViewSet.as_view({"post": "pause"}), name="pause-schedule"),
    path(f"{_ONE}/unpause", ScheduleViewSet.as_view({"post": "unpause"}), name="unpause-schedule"),
    path(f"{_ONE}/fires", ScheduleViewSet.as_view({"get": "fires"}), name="schedule-fires"),
]
