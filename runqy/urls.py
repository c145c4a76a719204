"""Maps paths to views."""

from django.contrib import admin
from django.urls import path

from runqy.api.documents import SchemaView, SwaggerView
from runqy.api.health import HealthView

urlpatterns = [
    path("health", HealthView.as_view(), name="health"),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("swagger/index.html", SwaggerView.as_view(), name="swagger"),
    path("admin/", admin.site.urls),
]

handler400 = "runqy.api.errors.bad_request"
handler404 = "runqy.api.errors.not_found"
handler500 = "runqy.api.errors.server_error"
