"""Maps paths to views."""

from django.contrib import admin
from django.urls import path
from django.views.decorators.cache import never_cache

from queues.api.config_views import ConfigListView, ConfigView, ReloadOrConfigView, ReloadView
from queues.api.status_views import PauseView, QueueListView, QueueView, RedeployView, UnpauseView
from runqy.accounts.admin import change_own_password
from runqy.accounts.api.views import KeyListView, KeyView
from runqy.accounts.logins import log_in
from runqy.api.aliases import routes
from runqy.api.documents import FrontDoor, SchemaView, SwaggerView
from runqy.api.health import HealthView, LifeView, ReadinessView
from runqy.api.limits import LimitsView
from runqy.limits import current_limits
from runqy.readiness import find_readiness
from tasks.api.creating_views import BatchView, EnqueueView
from tasks.api.handling_routes import TASK_ROUTES
from tasks.api.views import TaskView
from vaults.api.delivery_views import DeliveryListView
from vaults.api.entry_views import EntryListView, EntryVersionsView, EntryView
from vaults.api.transfer_views import ExportView, ImportView
from vaults.api.views import VaultListView, VaultView
from workers.api.views import RegisterView
from workers.api.worker_views import WorkerListView, WorkerView

urlpatterns = [
    path("", FrontDoor.as_view(to="/swagger/index.html")),
    path("admin", FrontDoor.as_view(to="/admin/")),
    path("queue/add", EnqueueView.as_view(), name="enqueue-task"),
    path("queue/add-batch", BatchView.as_view(), name="enqueue-batch"),
    path("queue/<str:task_id>", TaskView.as_view(), name="task"),
    path("worker/register", RegisterView.as_view(), name="register-worker"),
    path("api/keys", KeyListView.as_view(), name="api-keys"),
    path("api/keys/<str:key_id>", KeyView.as_view(), name="api-key"),
    path("api/vaults", VaultListView.as_view(), name="vaults"),
    path("api/vaults/import", ImportView.as_view(), name="import-vault"),
    path("api/vaults/<str:name>", VaultView.as_view(), name="vault"),
    path("api/vaults/<str:name>/deliveries", DeliveryListView.as_view(), name="vault-deliveries"),
    path("api/vaults/<str:name>/entries", EntryListView.as_view(), name="vault-entries"),
    path("api/vaults/<str:name>/entries/<str:key>", EntryView.as_view(), name="vault-entry"),
    path("api/vaults/<str:name>/entries/<str:key>/versions", EntryVersionsView.as_view(), name="vault-entry-versions"),
    path("api/vaults/<str:name>/export", ExportView.as_view(), name="export-vault"),
    *routes("api/cli/queues", QueueListView, name="queues", alias="api/queues"),
    *routes("api/cli/queues/<str:queue>", QueueView, name="queue", alias="api/queues/<str:queue>"),
    *routes("api/cli/queues/<str:queue>/pause", PauseView, name="pause-queue", alias="api/queues/<str:queue>/pause"),
    *routes(
        "api/cli/queues/<str:queue>/unpause", UnpauseView, name="unpause-queue", alias="api/queues/<str:queue>/unpause"
    ),
    path("api/cli/queues/<str:queue>/redeploy", RedeployView.as_view(), name="redeploy-queue"),
    *TASK_ROUTES,
    *routes("api/cli/configs", ConfigListView, name="configs", alias="workers/queues"),
    path("api/cli/configs/reload", ReloadOrConfigView.as_view(), {"name": "reload"}, name="reload-configs"),
    path("workers/reload", ReloadView.as_view(successor="/api/cli/configs/reload"), name="reload-configs-alias"),
    *routes("api/cli/configs/<str:name>", ConfigView, name="config", alias="workers/queues/<str:name>"),
    *routes("api/cli/workers", WorkerListView, name="workers", alias="workers"),
    *routes("api/cli/workers/<str:worker_id>", WorkerView, name="worker", alias="workers/<str:worker_id>"),
    path("api/limits", LimitsView.as_view(read=current_limits), name="limits"),
    path("health", HealthView.as_view(), name="health"),
    path("livez", LifeView.as_view(), name="livez"),
    path("readyz", ReadinessView.as_view(find=find_readiness), name="readyz"),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("swagger/doc.json", SchemaView.as_view(), name="swagger-doc"),
    path("swagger/index.html", SwaggerView.as_view(), name="swagger"),
    path("admin/login/", never_cache(log_in)),
    path("admin/password_change/", admin.site.admin_view(change_own_password, cacheable=True)),
    path("admin/", admin.site.urls),
]

handler400 = "runqy.api.errors.bad_request"
handler403 = "runqy.api.errors.forbidden"
handler404 = "runqy.api.errors.not_found"
handler500 = "runqy.api.errors.server_error"
