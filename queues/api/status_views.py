"""The traffic of queues over HTTP. Only administrators get here."""

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from runqy.api.answers import json_answer

from queues.api import status_examples as examples
from queues.api import status_outputs as outputs
from queues.operations import redeploy_queue
from queues.statistics import find_deploying_workers, get_queue_detail, list_queues
from queues.switching import pause_queue, unpause_queue
from runqy.api.permissions import identity_of
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker


class QueueListView(KeyedView):
    """All queues."""

    is_of_queues = True

    @extend_schema(
        operation_id="list_queues",
        tags=["queues"],
        responses={200: outputs.QueueStatusList, **problems(401, 403, 429, 503)},
        examples=[examples.QUEUE_LIST],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """List all queues with statistics, sub-queues each for itself."""
        queues = list_queues(get_broker(), allowed_queues=identity_of(request).queues)
        return json_answer({"queues": [outputs.status_answer(queue) for queue in queues], "count": len(queues)})


class QueueView(KeyedView):
    """One queue."""

    is_of_queues = True

    @extend_schema(
        operation_id="get_queue",
        tags=["queues"],
        responses={200: outputs.QueueDetailOutput, **problems(401, 403, 404, 429, 503)},
        examples=[examples.QUEUE_DETAIL],
    )
    def get(self, request: HttpRequest, queue: str) -> HttpResponse:
        """Tell all about a queue: counts, memory, history, who paused it, who serves it."""
        detail = get_queue_detail(get_broker(), queue, allowed_queues=identity_of(request).queues)
        return json_answer(outputs.detail_answer(detail))


class PauseView(KeyedView):
    """What stops a queue."""

    is_of_queues = True

    @extend_schema(
        operation_id="pause_queue",
        tags=["queues"],
        request=None,
        responses={200: outputs.QueueSwitched, **problems(401, 403, 404, 429, 503)},
        examples=[examples.PAUSED],
    )
    def post(self, request: HttpRequest, queue: str) -> HttpResponse:
        """Pause a queue: it takes tasks and hands out none. So it stays if it was paused."""
        name = pause_queue(get_broker(), name=queue, allowed_queues=identity_of(request).queues)
        return json_answer({"message": "queue paused", "queue": name, "paused": True})


class UnpauseView(KeyedView):
    """What lets a queue go on."""

    is_of_queues = True

    @extend_schema(
        operation_id="unpause_queue",
        tags=["queues"],
        request=None,
        responses={200: outputs.QueueSwitched, **problems(401, 403, 404, 429, 503)},
        examples=[examples.UNPAUSED],
    )
    def post(self, request: HttpRequest, queue: str) -> HttpResponse:
        """Unpause a queue. So it stays if it was not paused."""
        name = unpause_queue(get_broker(), name=queue, allowed_queues=identity_of(request).queues)
        return json_answer({"message": "queue unpaused", "queue": name, "paused": False})


class RedeployView(KeyedView):
    """What brings out new code."""

    is_of_queues = True

    @extend_schema(
        operation_id="redeploy_queue",
        tags=["queues"],
        request=None,
        responses={200: outputs.QueueRedeployed, **problems(401, 403, 404, 429, 503)},
        examples=[examples.REDEPLOYED],
    )
    def post(self, request: HttpRequest, queue: str) -> HttpResponse:
        """Let workers take the newest commit of a queue's branch: they deploy it beside the code that runs.

        Children are started anew between tasks. What cannot be deployed changes nothing; the worker's reason says why.
        """
        name = redeploy_queue(name=queue, allowed_queues=identity_of(request).queues)
        workers = find_deploying_workers(get_broker(), name)
        return json_answer({"message": "redeployment requested", "queue": name, "workers": workers})
