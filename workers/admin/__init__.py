"""Workers in the admin: who is there, what each of them runs."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from runqy.staff.pages import StaffModelAdmin
from runqy.staff.problems import shows_problems
from workers.admin.pages import show_worker, show_workers
from workers.models import Worker

__all__ = ["WorkerAdmin"]

View = Callable[..., HttpResponse]


@admin.register(Worker)
class WorkerAdmin(StaffModelAdmin):
    """The pages of workers: none of Django's own, which look for a table."""

    def get_urls(self) -> list[URLPattern]:
        """Return where the pages are, under the names that Django gives a model's."""
        return [
            path("", self._page(show_workers), name="workers_worker_changelist"),
            path("<str:object_id>/change/", self._page(show_worker), name="workers_worker_change"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Leave it to workers to register."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave workers as they are."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave it to workers to end."""
        return False

    def _page(self, show: View) -> View:
        """Return a view that those may see who may see workers."""

        def view(request: HttpRequest, **named: str) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            return show(self.admin_site.each_context(request), request, **named)

        return self.admin_site.admin_view(shows_problems(view, self.admin_site))
