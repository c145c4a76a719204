"""The admin pages of tasks: lists, one task, actions, and a form that enqueues a test task."""

from collections.abc import Callable

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from runqy.admin_site.base_admin import ReadOnlyModelAdmin
from runqy.admin_site.error_pages import render_errors
from tasks.admin.actions import apply_to_many, apply_to_one
from tasks.admin.bulk_actions import BulkActionAdmin
from tasks.admin.details import download_content, show_task
from tasks.admin.enqueue_form import show_test_form
from tasks.admin.errors import show_errors, show_failing_queues
from tasks.admin.output import show_output
from tasks.admin.permissions import can_test
from tasks.admin.queue_list import show_tasks
from tasks.admin.run_again import show_run_again
from tasks.admin.search import show_search
from tasks.admin.worker_runs import show_worker_runs
from tasks.models import Task

__all__ = ["BulkActionAdmin", "TaskAdmin"]

View = Callable[..., HttpResponse]


@admin.register(Task)
class TaskAdmin(ReadOnlyModelAdmin):
    """The pages of tasks. Django's own would query a table, and tasks live in Redis.

    Tasks are not edited; actions have permissions of their own.
    """

    def get_urls(self) -> list[URLPattern]:
        """Return the routes, under the names that Django gives those of a model."""
        return [
            path("", self._page(show_tasks), name="tasks_task_changelist"),
            path("add/", self._page(show_test_form), name="tasks_task_add"),
            path("bulk/", self._page(apply_to_many), name="tasks_task_bulk"),
            path("search/", self._page(show_search), name="tasks_task_search"),
            path("errors/", self._page(show_errors), name="tasks_task_errors"),
            path("failing/", self._page(show_failing_queues), name="tasks_task_failing"),
            path("worker-runs/", self._page(show_worker_runs), name="tasks_task_worker_runs"),
            path("<str:object_id>/change/", self._page(show_task), name="tasks_task_change"),
            path("<str:object_id>/action/", self._page(apply_to_one), name="tasks_task_action"),
            path("<str:object_id>/output/", self._page(show_output), name="tasks_task_output"),
            path("<str:object_id>/run-again/", self._page(show_run_again), name="tasks_task_run_again"),
            path("<str:object_id>/<str:part>/", self._page(download_content), name="tasks_task_content"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may enqueue a test task."""
        return can_test(request.user)

    def _page(self, render: View) -> View:
        """Return a view for users with the permission to view tasks."""

        def view(request: HttpRequest, **kwargs: str) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            request.current_app = self.admin_site.name
            context = self.admin_site.each_context(request) | {"can_test": can_test(request.user)}
            return render(context, request, **kwargs)

        return self.admin_site.admin_view(render_errors(view, self.admin_site))
