"""Maps paths to views."""

from django.contrib import admin
from django.urls import path

from runqy.api.documents import SchemaView, SwaggerView
from runqy.api.health import HealthView
from tasks.api.views import EnqueueView, TaskView
from workers.api.views import RegisterView

urlpatterns = [
    path("queue/add", EnqueueView.as_view(), name="enqueue-task"),
    path("queue/<str:task_id>", TaskView.as_view(), name="task"),
    path("worker/register", RegisterView.as_view(), name="register-worker"),
    path("health", HealthView.as_view(), name="health"),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("swagger/index.html", SwaggerView.as_view(), name="swagger"),
    path("admin/", admin.site.urls),
]

handler400 = "runqy.api.errors.bad_request"
handler404 = "runqy.api.errors.not_found"
handler500 = "runqy.api.errors.server_error"
