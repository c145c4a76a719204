"""Making releases of queues over HTTP."""

from typing import ClassVar

from rest_framework.response import Response

from queues.api import release_serializers as s
from queues.models import Release
from queues.releases import redeploy_queue, roll_back
from queues.status import find_deploying_workers
from runqy.api.parsers import refuse_members
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.configuration.operations import PublicationResult, publication_result
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker


class ReleaseViewSet(ApiViewSet):
    """Releases of queues."""

    tag: ClassVar = "queues"
    action_roles: ClassVar = dict.fromkeys(("redeploy", "rollback"), frozenset({Role.CONFIGURATOR}))
    allows_queue_scoped_keys: ClassVar = True

    @operation("redeploy_queue", s.QueueRedeployedSerializer, request=s.RedeploySerializer)
    def redeploy(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Release the newest commit of a queue's branch, or the given commit or tag, to its workers.

        The first workers start it beside the code that runs; the others follow once it has succeeded there. If it does
        not start, or fails, all run what they ran before, and the release says why.
        """
        body = s.RedeploySerializer.validated(request.data)
        with publication_result() as publication:
            release = redeploy_queue(name=queue, commit=body["commit"], allowed_queues=request.auth.queues)
        return self._released("redeployment requested", release, publication)

    @operation("roll_back_queue", s.QueueRedeployedSerializer, errors=(400, 409), request=None)
    def rollback(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Release what was live before, or what is live if another release is rolling out.

        Processes of newer code take no more tasks from then on. Tasks wait until the code before is loaded.
        """
        refuse_members(request)
        with publication_result() as publication:
            release = roll_back(name=queue, allowed_queues=request.auth.queues)
        return self._released("rollback requested", release, publication)

    def _released(self, message: str, release: Release, publication: PublicationResult) -> Response:
        response = s.QueueRedeployedSerializer(
            {
                "message": message,
                "queue": release.queue.name,
                "workers": find_deploying_workers(get_broker(), release.queue.name),
                "published": publication.is_published,
                "release": release.number,
            }
        )
        return Response(response.data)
