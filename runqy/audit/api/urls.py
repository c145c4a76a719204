"""Routes of the audit."""

from django.urls import path

from runqy.audit.api.viewsets import AuditViewSet

urlpatterns = [path("api/audit", AuditViewSet.as_view({"get": "list"}), name="audit")]
