"""Workers over HTTP, for people and the command line."""

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from runqy.api.answers import json_answer

from runqy.api.permissions import identity_of
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from workers.api.worker_outputs import WorkerList, WorkerOutput, worker_answer
from workers.queries import get_worker, list_workers

_WORKER = {
    "worker_id": "worker-abc123",
    "started_at": 1705314600,
    "last_beat": 1705322700,
    "concurrency": 1,
    "queues": "map[inference_high:10]",
    "status": "ready",
    "is_stale": False,
    "state": "ready",
    "reason": "",
    "queue": "inference",
    "redis_queues": {"inference_high": 10},
    "processes": 1,
    "running": [
        {
            "task_id": "task-uuid",
            "queue": "inference_high",
            "started_at": "2024-01-15T12:44:59.120000Z",
            "deadline": "2024-01-15T12:49:59Z",
        }
    ],
    "last_take_at": "2024-01-15T12:44:59Z",
    "commit": "8b1c0de",
    "version": "0.1.0",
    "host": "gpu-1",
    "pid": 4711,
    "is_foreign": False,
}


class WorkerListView(KeyedView):
    """All workers."""

    is_of_queues = True

    @extend_schema(
        operation_id="list_workers",
        tags=["workers"],
        responses={200: WorkerList, **problems(401, 403, 503)},
        examples=[OpenApiExample("Answer", {"workers": [_WORKER], "count": 1}, response_only=True)],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """List all workers that were heard of in the last minute."""
        workers = list_workers(get_broker(), allowed_queues=identity_of(request).queues)
        return json_answer({"workers": [worker_answer(worker) for worker in workers], "count": len(workers)})


class WorkerView(KeyedView):
    """One worker."""

    is_of_queues = True

    @extend_schema(
        operation_id="get_worker",
        tags=["workers"],
        responses={200: WorkerOutput, **problems(401, 403, 404, 503)},
        examples=[OpenApiExample("Answer", _WORKER, response_only=True)],
    )
    def get(self, request: HttpRequest, worker_id: str) -> HttpResponse:
        """Show one worker and the tasks that it runs."""
        return json_answer(
            worker_answer(get_worker(get_broker(), worker_id, allowed_queues=identity_of(request).queues))
        )
