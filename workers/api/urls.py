"""Routes of workers."""

from django.urls import path

from runqy.api.viewsets import ApiViewSet
from workers.api.viewsets import RegistrationViewSet, WorkerViewSet

_WORKER_PATH = "api/cli/workers/<str:worker_id>"
_WORKERS, _WORKER = "/api/cli/workers", "/api/cli/workers/{worker_id}"

urlpatterns = [
    path("worker/register", RegistrationViewSet.as_view({"post": "register"}), name="register-worker"),
    path(
        # Workers poll this, so it does not count against the limit of registrations.
        "worker/queues",
        RegistrationViewSet.as_view({"get": "list_queues"}, throttle_classes=ApiViewSet.throttle_classes),
        name="registrable-queues",
    ),
    path("api/cli/workers", WorkerViewSet.as_view({"get": "list"}), name="workers"),
    path(_WORKER_PATH, WorkerViewSet.as_view({"get": "retrieve"}), name="worker"),
    path(f"{_WORKER_PATH}/drain", WorkerViewSet.as_view({"post": "drain"}), name="drain-worker"),
    path(f"{_WORKER_PATH}/restart", WorkerViewSet.as_view({"post": "restart"}), name="restart-worker"),
    path(f"{_WORKER_PATH}/stop", WorkerViewSet.as_view({"post": "stop"}), name="stop-worker"),
    # Paths of released clients.
    path("workers", WorkerViewSet.as_view({"get": "list"}, deprecated_for=_WORKERS), name="workers-alias"),
    path(
        "workers/<str:worker_id>",
        WorkerViewSet.as_view({"get": "retrieve"}, deprecated_for=_WORKER),
        name="worker-alias",
    ),
]
