"""Routes of queues and their configuration.

`workers/queues` and `workers/reload` match before the routes of workers.
"""

from typing import Any

from django.urls import path

from queues.api.hook_viewsets import GitHookSecretViewSet, GitHookViewSet
from queues.api.release_viewsets import ReleaseViewSet
from queues.api.schema import SchemaView
from queues.api.viewsets import QueueConfigViewSet, QueueViewSet

_QUEUES, _QUEUE = "/api/cli/queues", "/api/cli/queues/{queue}"
_CONFIGS, _CONFIG = "/api/cli/configs", "/api/cli/configs/{name}"
_CONFIG_ACTIONS: dict[str, Any] = {"get": "retrieve", "put": "update", "delete": "destroy"}

urlpatterns = [
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("swagger/doc.json", SchemaView.as_view(), name="swagger-doc"),
    path("api/cli/queues", QueueViewSet.as_view({"get": "list"}), name="queues"),
    path("api/cli/queues/<str:queue>", QueueViewSet.as_view({"get": "retrieve"}), name="queue"),
    path("api/cli/queues/<str:queue>/pause", QueueViewSet.as_view({"post": "pause"}), name="pause-queue"),
    path("api/cli/queues/<str:queue>/unpause", QueueViewSet.as_view({"post": "unpause"}), name="unpause-queue"),
    path("api/cli/queues/<str:queue>/enable", QueueViewSet.as_view({"post": "enable"}), name="enable-queue"),
    path("api/cli/queues/<str:queue>/disable", QueueViewSet.as_view({"post": "disable"}), name="disable-queue"),
    path("api/cli/queues/<str:queue>/demand", QueueViewSet.as_view({"get": "demand"}), name="queue-demand"),
    path("api/cli/queues/<str:queue>/rollback", ReleaseViewSet.as_view({"post": "rollback"}), name="rollback-queue"),
    path("api/cli/queues/<str:queue>/redeploy", ReleaseViewSet.as_view({"post": "redeploy"}), name="redeploy-queue"),
    path(
        "api/cli/queues/<str:queue>/git-hook-secret",
        GitHookSecretViewSet.as_view({"post": "show"}),
        name="git-hook-secret",
    ),
    path(
        "api/cli/queues/<str:queue>/git-hook-secret/rotate",
        GitHookSecretViewSet.as_view({"post": "rotate"}),
        name="rotate-git-hook-secret",
    ),
    path("hooks/git/<str:queue>", GitHookViewSet.as_view({"post": "receive"}), name="git-hook"),
    path("api/cli/configs", QueueConfigViewSet.as_view({"get": "list", "post": "create"}), name="configs"),
    # POST reloads or applies queue files; the other methods act on a queue of this name, and are described with all
    # queues
    path(
        "api/cli/configs/reload",
        QueueConfigViewSet.as_view({"post": "reload", **_CONFIG_ACTIONS}, undescribed=(*_CONFIG_ACTIONS,)),
        {"name": "reload"},
        name="reload-configs",
    ),
    path(
        "api/cli/configs/apply",
        QueueConfigViewSet.as_view({"post": "apply", **_CONFIG_ACTIONS}, undescribed=(*_CONFIG_ACTIONS,)),
        {"name": "apply"},
        name="apply-configs",
    ),
    path("api/cli/configs/<str:name>", QueueConfigViewSet.as_view(_CONFIG_ACTIONS), name="config"),
    path(
        "api/cli/configs/<str:name>/deletion",
        QueueConfigViewSet.as_view({"get": "deletion"}),
        name="config-deletion",
    ),
    # for released clients
    path("api/queues", QueueViewSet.as_view({"get": "list"}, deprecated_for=_QUEUES), name="queues-alias"),
    path(
        "api/queues/<str:queue>",
        QueueViewSet.as_view({"get": "retrieve"}, deprecated_for=_QUEUE),
        name="queue-alias",
    ),
    path(
        "api/queues/<str:queue>/pause",
        QueueViewSet.as_view({"post": "pause"}, deprecated_for=f"{_QUEUE}/pause"),
        name="pause-queue-alias",
    ),
    path(
        "api/queues/<str:queue>/unpause",
        QueueViewSet.as_view({"post": "unpause"}, deprecated_for=f"{_QUEUE}/unpause"),
        name="unpause-queue-alias",
    ),
    path(
        "workers/queues",
        QueueConfigViewSet.as_view({"get": "list", "post": "create"}, deprecated_for=_CONFIGS),
        name="configs-alias",
    ),
    path(
        "workers/queues/<str:name>",
        QueueConfigViewSet.as_view(_CONFIG_ACTIONS, deprecated_for=_CONFIG),
        name="config-alias",
    ),
    path(
        "workers/reload",
        QueueConfigViewSet.as_view({"post": "reload"}, deprecated_for=f"{_CONFIGS}/reload"),
        name="reload-configs-alias",
    ),
]
