"""The admin pages of tasks: lists, one task, actions, and a form that enqueues a test task."""

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, path

from runqy.admin_site.base_admin import ReadOnlyModelAdmin
from tasks.admin.actions import SelectedTasksView, TaskActionView
from tasks.admin.bulk_actions import BulkActionAdmin
from tasks.admin.details import ContentView, TaskView
from tasks.admin.enqueue_forms import RunAgainView, TestTaskView
from tasks.admin.errors import ErrorsView, FailingQueuesView
from tasks.admin.lists import TasksView
from tasks.admin.output import OutputView, StreamView
from tasks.admin.permissions import can_test
from tasks.admin.releases import ReleasesView
from tasks.admin.search import SearchView
from tasks.admin.worker_runs import WorkerRunsView
from tasks.models import BulkAction, Task

admin.site.register(BulkAction, BulkActionAdmin)


@admin.register(Task)
class TaskAdmin(ReadOnlyModelAdmin):
    """The pages of tasks. Those of Django would query a table, but tasks are in Redis.

    Tasks are not edited. Actions have their own permissions.
    """

    def get_urls(self) -> list[URLPattern]:
        return [
            # The names that Django gives to the routes of a model, so that its links work.
            path("", self.page(TasksView), name="tasks_task_changelist"),
            path("add/", self.page(TestTaskView), name="tasks_task_add"),
            path("bulk/", self.page(SelectedTasksView), name="tasks_task_bulk"),
            path("search/", self.page(SearchView), name="tasks_task_search"),
            path("errors/", self.page(ErrorsView), name="tasks_task_errors"),
            path("failing/", self.page(FailingQueuesView), name="tasks_task_failing"),
            path("releases/", self.page(ReleasesView), name="tasks_task_releases"),
            path("worker-runs/", self.page(WorkerRunsView), name="tasks_task_worker_runs"),
            path("<str:object_id>/change/", self.page(TaskView), name="tasks_task_change"),
            path("<str:object_id>/action/", self.page(TaskActionView), name="tasks_task_action"),
            path("<str:object_id>/output/", self.page(OutputView), name="tasks_task_output"),
            path("<str:object_id>/stream/", self.page(StreamView), name="tasks_task_stream"),
            path("<str:object_id>/run-again/", self.page(RunAgainView), name="tasks_task_run_again"),
            path("<str:object_id>/<str:part>/", self.page(ContentView), name="tasks_task_content"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return can_test(request.user)
