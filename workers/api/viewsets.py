"""Registration of workers, and their state for administrators."""

from typing import ClassVar

import structlog
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from rest_framework.response import Response

from runqy.api.parsers import refuse_members
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.throttling import RegistrationThrottle
from runqy.api.viewsets import ApiViewSet
from runqy.broker.workers.records import WorkerAction, count_workers
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from workers.api import examples
from workers.api import serializers as s
from workers.operations import register_worker, request_worker_action
from workers.queries import get_worker, list_registrable_queues, list_workers

log = structlog.get_logger(__name__)


@method_decorator(cache_control(no_store=True), name="dispatch")
class RegistrationViewSet(ApiViewSet):
    """Registration of workers."""

    tag: ClassVar = "workers"
    roles: ClassVar = frozenset({Role.WORKER})
    read_roles: ClassVar = frozenset[Role]()
    throttle_classes = (*ApiViewSet.throttle_classes, RegistrationThrottle)

    @operation(
        "register_worker",
        s.RegistrationSerializer,
        errors=(404, 409),
        request=s.RegisterWorkerSerializer,
        examples=[examples.REGISTRATION_BODY, examples.REGISTRATION],
    )
    def register(self, request: AuthenticatedRequest) -> Response:
        """Register a worker and return its Redis credentials, deployment and decrypted secrets."""
        body = s.RegisterWorkerSerializer.validated(request.data)
        accepted = body.get("accepts") or ()
        registration = register_worker(
            queue=body["queue"],
            worker_id=body.get("worker_id") or "",
            identity=request.auth,
            instance_id=body["instance_id"] if s.REDIS_ACL in accepted else "",
            follows_releases=s.RELEASES in accepted,
        )
        log.info(
            "worker_registered",
            worker_id=registration.worker_id,
            queue=registration.queue.name,
            hostname=body.get("hostname") or "",
            version=body.get("version") or "",
            redis_user=registration.redis.username,
        )
        return Response(s.RegistrationSerializer(registration).data)

    @operation("list_registrable_queues", s.QueueListSerializer, examples=[examples.QUEUE_LIST])
    def list_queues(self, request: AuthenticatedRequest) -> Response:
        """List the enabled queues that workers with this key may register for."""
        return Response(s.QueueListSerializer({"queues": list_registrable_queues(request.auth)}).data)


class WorkerViewSet(ApiViewSet):
    """Workers, the tasks that they run, and requests to them."""

    tag: ClassVar = "workers"
    action_roles: ClassVar = dict.fromkeys(("drain", "restart", "stop"), frozenset({Role.OPERATOR}))
    allows_queue_scoped_keys: ClassVar = True

    @operation("list_workers", s.WorkerListSerializer, examples=[examples.WORKER_LIST])
    def list(self, request: AuthenticatedRequest) -> Response:
        """List all workers that reported in the last minute, and those that were lost in the last day."""
        broker = get_broker()
        workers = list_workers(broker, allowed_queues=request.auth.queues)
        processes = count_workers([worker.record for worker in workers.live], now_s=broker.now_s())
        content = {
            "workers": workers.live,
            "lost": workers.lost,
            "count": len(workers.live),
            "processes": processes,
        }
        return Response(s.WorkerListSerializer(content).data)

    @operation(
        "drain_worker",
        s.ActionRequestSerializer,
        errors=(400, 409),
        request=None,
        examples=[examples.ACTION_REQUEST],
    )
    def drain(self, request: AuthenticatedRequest, worker_id: str) -> Response:
        """Drain a worker: it takes no more tasks, lets those that run end, however long they take, and exits.

        Tasks that it holds and has not started go to other workers. This ends its process, with all its queues.
        """
        return self._request(request, worker_id, WorkerAction.DRAIN)

    @operation(
        "restart_worker",
        s.ActionRequestSerializer,
        errors=(400, 409),
        request=None,
        examples=[examples.ACTION_REQUEST],
    )
    def restart(self, request: AuthenticatedRequest, worker_id: str) -> Response:
        """Restart the children of a worker, each between two tasks, with the same code and environment."""
        return self._request(request, worker_id, WorkerAction.RESTART)

    @operation(
        "stop_worker",
        s.ActionRequestSerializer,
        errors=(400, 409),
        request=None,
        examples=[examples.ACTION_REQUEST],
    )
    def stop(self, request: AuthenticatedRequest, worker_id: str) -> Response:
        """Stop a worker, as SIGTERM does.

        Tasks that run for longer than its `shutdown_timeout` go back to their queues, and spend no retry. This ends
        its process, with all its queues.
        """
        return self._request(request, worker_id, WorkerAction.STOP)

    def _request(self, request: AuthenticatedRequest, worker_id: str, action: WorkerAction) -> Response:
        refuse_members(request)
        requested = request_worker_action(worker_id, action, allowed_queues=request.auth.queues)
        return Response(s.ActionRequestSerializer(requested).data)

    @operation("get_worker", s.WorkerSerializer, examples=[examples.WORKER])
    def retrieve(self, request: AuthenticatedRequest, worker_id: str) -> Response:
        """Show one worker and the tasks that it runs, or had when it was lost."""
        worker = get_worker(get_broker(), worker_id, allowed_queues=request.auth.queues)
        return Response(s.WorkerSerializer(worker).data)
