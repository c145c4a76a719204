"""Tasks in the admin: found, looked at, run, cancelled, archived, deleted, and tried."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from runqy.staff.pages import StaffModelAdmin
from runqy.staff.problems import shows_problems
from tasks.admin.bulk import handle_many
from tasks.admin.deeds import handle_one
from tasks.admin.details import download_content, show_task
from tasks.admin.overview import show_tasks
from tasks.admin.rights import may_try
from tasks.admin.trial import try_out
from tasks.models import Task

__all__ = ["TaskAdmin"]

View = Callable[..., HttpResponse]


@admin.register(Task)
class TaskAdmin(StaffModelAdmin):
    """The pages of tasks: none of Django's own, which look for a table."""

    def get_urls(self) -> list[URLPattern]:
        """Return where the pages are, under the names that Django gives a model's."""
        return [
            path("", self._page(show_tasks), name="tasks_task_changelist"),
            path("add/", self._page(try_out), name="tasks_task_add"),
            path("bulk/", self._page(handle_many), name="tasks_task_bulk"),
            path("<str:object_id>/change/", self._page(show_task), name="tasks_task_change"),
            path("<str:object_id>/handle/", self._page(handle_one), name="tasks_task_handle"),
            path("<str:object_id>/<str:part>/", self._page(download_content), name="tasks_task_content"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Let those try a task who may put one on a queue."""
        return may_try(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave tasks as they are: what can be done to one has permissions of its own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave deleting to the page of a task."""
        return False

    def _page(self, show: View) -> View:
        """Return a view that those may see who may see tasks."""

        def view(request: HttpRequest, **named: str) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            context = self.admin_site.each_context(request) | {"may_try": may_try(request.user)}
            return show(context, request, **named)

        return self.admin_site.admin_view(shows_problems(view, self.admin_site))
