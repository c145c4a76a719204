"""Maps the paths of the tasks of queues to views."""

from django.urls import path

from runqy.api.aliases import routes
from tasks.api.bulk_views import ArchiveTasksView, DeleteTasksView, RunTasksView
from tasks.api.handling_views import (
    ArchiveTaskView,
    CancelAliasView,
    CancelView,
    CreateTaskView,
    QueueTasksView,
    QueueTaskView,
    RunTaskView,
)

_TASKS = "queues/<str:queue>/tasks"

TASK_ROUTES = [
    path("api/cli/tasks", CreateTaskView.as_view(), name="create-task"),
    path("api/cli/tasks/<str:task_id>", CancelView.as_view(), name="cancel-task"),
    path(
        "api/tasks/<str:task_id>/cancel",
        CancelAliasView.as_view(successor="/api/cli/tasks/{task_id}"),
        name="cancel-task-alias",
    ),
    *routes(f"api/cli/{_TASKS}", QueueTasksView, name="queue-tasks", alias=f"api/{_TASKS}"),
    path(f"api/cli/{_TASKS}/run", RunTasksView.as_view(), name="run-tasks"),
    path(f"api/cli/{_TASKS}/archive", ArchiveTasksView.as_view(), name="archive-tasks"),
    path(f"api/cli/{_TASKS}/delete", DeleteTasksView.as_view(), name="delete-tasks"),
    *routes(f"api/cli/{_TASKS}/<str:task_id>", QueueTaskView, name="queue-task", alias=f"api/{_TASKS}/<str:task_id>"),
    path(f"api/cli/{_TASKS}/<str:task_id>/run", RunTaskView.as_view(), name="run-task"),
    path(f"api/cli/{_TASKS}/<str:task_id>/archive", ArchiveTaskView.as_view(), name="archive-task"),
]
