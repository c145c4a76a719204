"""Routes of the apps, the server and the admin."""

from django.contrib import admin
from django.urls import include, path
from django.views.decorators.cache import never_cache

from runqy.accounts.admin.own_pages import own_keys, own_settings, revoke_own_key
from runqy.accounts.admin.users import change_own_password, log_out_own_sessions
from runqy.accounts.logins import log_in
from runqy.api.views import IndexRedirectView, StartPageView, SwaggerView
from runqy.server.health.viewsets import HealthViewSet
from runqy.server.limits import LimitsViewSet
from runqy.server.metrics.viewsets import MetricsViewSet
from runqy.server.overview.views import ChartsView, LiveView

urlpatterns = [
    path("", StartPageView.as_view(), name="start"),
    path("admin", IndexRedirectView.as_view(url="/admin/")),
    path("", include("tasks.api.urls")),
    path("", include("queues.api.urls")),
    path("", include("workers.api.urls")),
    path("", include("webhooks.api.urls")),
    path("", include("batches.api.urls")),
    path("", include("alerts.api.urls")),
    path("", include("schedules.api.urls")),
    path("", include("vaults.api.urls")),
    path("", include("runqy.accounts.api.urls")),
    path("", include("runqy.audit.api.urls")),
    path("api/limits", LimitsViewSet.as_view({"get": "retrieve"}), name="limits"),
    path("health", HealthViewSet.as_view({"get": "health"}), name="health"),
    path("metrics", MetricsViewSet.as_view({"get": "metrics"}), name="metrics"),
    path("livez", HealthViewSet.as_view({"get": "livez"}), name="livez"),
    path("readyz", HealthViewSet.as_view({"get": "readyz"}), name="readyz"),
    path("swagger/index.html", SwaggerView.as_view(), name="swagger"),
    path("admin/login/", never_cache(log_in)),
    path("admin/password_change/", admin.site.admin_view(change_own_password, cacheable=True)),
    path("admin/logout/everywhere/", admin.site.admin_view(log_out_own_sessions), name="admin_logout_everywhere"),
    path("admin/api-keys/", admin.site.admin_view(own_keys), name="admin_own_keys"),
    path("admin/api-keys/<int:key_id>/revoke/", admin.site.admin_view(revoke_own_key), name="admin_own_key_revoke"),
    path("admin/settings/", admin.site.admin_view(own_settings), name="admin_own_settings"),
    path("admin/overview/live/", admin.site.admin_view(LiveView.as_view()), name="admin_overview_live"),
    path("admin/overview/charts/", admin.site.admin_view(ChartsView.as_view()), name="admin_overview_charts"),
    path("admin/", admin.site.urls),
]

handler400 = "runqy.api.exceptions.bad_request"
handler403 = "runqy.api.exceptions.forbidden"
handler404 = "runqy.api.exceptions.not_found"
handler500 = "runqy.api.exceptions.server_error"
