"""The admin pages of workers."""

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, path

from runqy.admin_site.base_admin import ReadOnlyModelAdmin
from workers.admin.pages import WorkerRequestView, WorkersView, WorkerView
from workers.models import Worker


@admin.register(Worker)
class WorkerAdmin(ReadOnlyModelAdmin):
    """Pages of workers. Workers register themselves and have no table, so Django's own pages are replaced."""

    def has_stop_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("workers.stop_worker")

    def get_urls(self) -> list[URLPattern]:
        # The names that Django gives the pages of a model, since the admin reverses them.
        return [
            path("", self.page(WorkersView), name="workers_worker_changelist"),
            path("<str:object_id>/change/", self.page(WorkerView), name="workers_worker_change"),
            path("<str:object_id>/request/", self.page(WorkerRequestView), name="workers_worker_request"),
        ]
