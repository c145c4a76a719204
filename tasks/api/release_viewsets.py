"""The releases of a queue over HTTP, with the errors of those that were reverted."""

from typing import ClassVar

from rest_framework.response import Response

from queues.queries import get_fresh_catalog, hides_payloads
from queues.releases import list_releases
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from tasks.api.release_serializers import ReleaseListSerializer
from tasks.history.release_errors import find_frequent_errors


class ReleaseListViewSet(ApiViewSet):
    """Releases of queues."""

    tag: ClassVar = "queues"
    allows_queue_scoped_keys: ClassVar = True

    @operation(
        "list_releases",
        ReleaseListSerializer,
    )
    def list(self, request: AuthenticatedRequest, queue: str) -> Response:
        """List the releases of a queue, the newest first.

        Of the newest ones that were reverted it has the most frequent error.
        """
        name, releases = list_releases(name=queue, allowed_queues=request.auth.queues)
        context = {
            "errors": find_frequent_errors(name, releases),
            "is_hidden": request.auth.role == Role.VIEWER and hides_payloads(name, get_fresh_catalog()),
        }
        return Response(ReleaseListSerializer({"queue": name, "releases": releases}, context=context).data)
