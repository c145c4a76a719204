"""Routes of tasks.

Ids of tasks may contain slashes, and Django gets them decoded: of two routes that match, the longer one must come
first.
"""

from typing import Any

from django.urls import path

from runqy.accounts.authentication import PublicResultAuthentication
from tasks.api.bulk_viewsets import BulkActionViewSet
from tasks.api.queue_viewsets import BulkTaskViewSet, CancelTaskViewSet, QueueTaskViewSet
from tasks.api.run_viewsets import ErrorGroupViewSet, QueueStatsViewSet, ReleaseListViewSet, RunViewSet
from tasks.api.viewsets import TaskViewSet

_TASKS = "queues/<str:queue>/tasks"
_LIST: dict[str, Any] = {"get": "list"}
_ONE: dict[str, Any] = {"get": "retrieve", "delete": "destroy"}

urlpatterns = [
    path("queue/add", TaskViewSet.as_view({"post": "create"}), name="enqueue-task"),
    path("queue/add-batch", TaskViewSet.as_view({"post": "create_batch"}), name="enqueue-batch"),
    path("queue/<path:task_id>/events", TaskViewSet.as_view({"get": "events"}), name="task-events"),
    path("queue/<path:task_id>/stream", TaskViewSet.as_view({"get": "stream"}), name="task-stream"),
    path(
        "queue/<path:task_id>",
        TaskViewSet.as_view({"get": "retrieve"}, authentication_classes=[PublicResultAuthentication]),
        name="task",
    ),
    # The command line's path for the same operation.
    path("api/cli/tasks", TaskViewSet.as_view({"post": "create"}, operation_id="create_task"), name="create-task"),
    path("api/cli/tasks/<path:task_id>", CancelTaskViewSet.as_view({"delete": "cancel"}), name="cancel-task"),
    path(
        "api/tasks/<path:task_id>/cancel",
        CancelTaskViewSet.as_view({"post": "cancel"}, deprecated_for="/api/cli/tasks/{task_id}"),
        name="cancel-task-alias",
    ),
    path("api/bulk-actions", BulkActionViewSet.as_view({"get": "list", "post": "create"}), name="bulk-actions"),
    path("api/bulk-actions/<str:number>", BulkActionViewSet.as_view({"get": "retrieve"}), name="bulk-action"),
    path(
        "api/bulk-actions/<str:number>/cancel",
        BulkActionViewSet.as_view({"post": "cancel"}),
        name="cancel-bulk-action",
    ),
    path("api/runs", RunViewSet.as_view({"get": "list"}), name="runs"),
    path("api/errors", ErrorGroupViewSet.as_view({"get": "list"}), name="error-groups"),
    path("api/cli/queues/<str:queue>/releases", ReleaseListViewSet.as_view({"get": "list"}), name="releases"),
    path("api/cli/queues/<str:queue>/stats", QueueStatsViewSet.as_view({"get": "retrieve"}), name="queue-stats"),
    path(f"api/cli/{_TASKS}", QueueTaskViewSet.as_view(_LIST), name="queue-tasks"),
    path(
        f"api/{_TASKS}",
        QueueTaskViewSet.as_view(_LIST, deprecated_for="/api/cli/queues/{queue}/tasks"),
        name="queue-tasks-alias",
    ),
    path(f"api/cli/{_TASKS}/run", BulkTaskViewSet.as_view({"post": "run"}), name="run-tasks"),
    path(f"api/cli/{_TASKS}/archive", BulkTaskViewSet.as_view({"post": "archive"}), name="archive-tasks"),
    path(f"api/cli/{_TASKS}/delete", BulkTaskViewSet.as_view({"post": "delete_all"}), name="delete-tasks"),
    path(f"api/cli/{_TASKS}/release", BulkTaskViewSet.as_view({"post": "release"}), name="release-tasks"),
    path(f"api/cli/{_TASKS}/<path:task_id>/logs", QueueTaskViewSet.as_view({"get": "logs"}), name="task-logs"),
    path(f"api/cli/{_TASKS}/<path:task_id>/run", QueueTaskViewSet.as_view({"post": "run"}), name="run-task"),
    path(
        f"api/cli/{_TASKS}/<path:task_id>/archive", QueueTaskViewSet.as_view({"post": "archive"}), name="archive-task"
    ),
    path(f"api/cli/{_TASKS}/<path:task_id>", QueueTaskViewSet.as_view(_ONE), name="queue-task"),
    path(
        f"api/{_TASKS}/<path:task_id>",
        QueueTaskViewSet.as_view(_ONE, deprecated_for="/api/cli/queues/{queue}/tasks/{task_id}"),
        name="queue-task-alias",
    ),
]
