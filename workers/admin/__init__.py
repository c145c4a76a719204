"""The admin pages of workers."""

from collections.abc import Callable

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from runqy.admin_site.base_admin import ReadOnlyModelAdmin
from runqy.admin_site.error_pages import render_errors
from workers.admin.pages import show_worker, show_workers
from workers.models import Worker

__all__ = ["WorkerAdmin"]

View = Callable[..., HttpResponse]


@admin.register(Worker)
class WorkerAdmin(ReadOnlyModelAdmin):
    """Pages of workers, which register themselves; without those of Django that need a table."""

    def get_urls(self) -> list[URLPattern]:
        """Return the pages' URLs, under the names that Django uses for a model's."""
        return [
            path("", self._page(show_workers), name="workers_worker_changelist"),
            path("<str:object_id>/change/", self._page(show_worker), name="workers_worker_change"),
        ]

    def _page(self, show: View) -> View:
        """Return a view that requires permission to view workers."""

        def view(request: HttpRequest, **named: str) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            return show(self.admin_site.each_context(request), request, **named)

        return self.admin_site.admin_view(render_errors(view, self.admin_site))
