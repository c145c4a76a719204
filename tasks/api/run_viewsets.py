"""The history of runs over HTTP: runs, groups of errors, statistics of queues, releases and their errors."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rest_framework.response import Response

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog, hides_payloads
from queues.releases import list_releases
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from tasks.api import run_serializers as s
from tasks.api.release_serializers import ReleaseListSerializer
from tasks.history.error_groups import list_error_groups, with_samples_of
from tasks.history.queries import (
    RunCursor,
    RunFilter,
    RunOrder,
    list_runs,
    resolve_history_queue,
)
from tasks.history.releases import find_frequent_errors, find_new_since_release
from tasks.history.stats import get_stats
from tasks.models import TaskRun


class HistoryViewSet(ApiViewSet):
    """Reads the history of runs."""

    read_roles: ClassVar = frozenset({Role.CLIENT, Role.OPERATOR, Role.CONFIGURATOR})
    allows_queue_scoped_keys = True
    needs_confirmed_configuration = False


class RunViewSet(HistoryViewSet):
    """Runs."""

    tag: ClassVar = "history"
    pagination_class = SignedCursorPagination

    @operation(
        "list_runs",
        s.RunPageSerializer,
        errors=(404,),
        parameters=[s.RunQuerySerializer],
        examples=[s.RUN_PAGE],
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List runs: each attempt that ended, and tasks that ended without one.

        They appear within seconds, and are kept for a week unless the server is configured otherwise.
        """
        query = s.RunQuerySerializer.validated(request.query_params.dict())
        run_filter, order = _run_filter(query, request.auth.queues), RunOrder(query["order"])

        def read(limit: int, after: RunCursor | None) -> tuple[Sequence[TaskRun], RunCursor | None]:
            page = list_runs(run_filter, limit=limit, order=order, after=after)
            return page.runs, page.end

        runs = self.paginate_queryset(PagedList(read=read, position=RunCursor, identity=f"runs {order}"))
        return self.get_paginated_response({"runs": s.RunSerializer(runs, many=True).data, "count": len(runs)})


class ErrorGroupViewSet(HistoryViewSet):
    """Groups of errors."""

    tag: ClassVar = "history"

    @operation(
        "list_errors",
        s.ErrorGroupListSerializer,
        errors=(404,),
        parameters=[s.ErrorQuerySerializer],
        examples=[s.ERROR_GROUPS],
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List the errors of runs in groups, the most frequent first; without `from` of the last 24 hours.

        At most the newest 100,000 failures of the period are counted; if there are more, `is_partial` is true.
        """
        query = s.ErrorQuerySerializer.validated(request.query_params.dict())
        run_filter = _run_filter(query, request.auth.queues)
        found = list_error_groups(run_filter, limit=query["limit"])
        new_since = find_new_since_release(found.groups)
        groups = with_samples_of(found.groups, run_filter, {key: start.commit for key, start in new_since.items()})
        content = {"errors": groups, "count": len(groups), "is_partial": found.is_partial}
        return Response(s.ErrorGroupListSerializer(content, context={"new_since": new_since}).data)


class QueueStatsViewSet(HistoryViewSet):
    """Statistics of queues over time."""

    tag: ClassVar = "history"
    read_roles: ClassVar = HistoryViewSet.read_roles | {Role.VIEWER}

    @operation(
        "get_queue_stats",
        s.QueueStatsSerializer,
        parameters=[s.StatsQuerySerializer],
        examples=[s.STATS],
    )
    def retrieve(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Show how many runs of a queue ended in which way, how long they waited and ran, and its backlog.

        Minutes are kept for 90 days, hours for two years.
        """
        interval = s.StatsQuerySerializer.validated(request.query_params.dict())
        found = resolve_history_queue(queue, allowed_queues=request.auth.queues)
        points = get_stats(queue=found.queue, redis_queue=found.redis_queue, **interval)
        name = found.redis_queue or found.queue
        content = {"queue": name, "step_secs": interval["step_s"], "points": points}
        return Response(s.QueueStatsSerializer(content).data)


def _run_filter(query: dict[str, Any], allowed_queues: AllowedQueues) -> RunFilter:
    """Return the filter of a validated query. Raise QueueNotFound."""
    names: dict[str, str] = {}
    if query["queue"]:
        found = resolve_history_queue(query["queue"], allowed_queues=allowed_queues)
        names = {"queue": found.queue, "redis_queue": found.redis_queue}
    return RunFilter(
        allowed_queues=allowed_queues,
        outcomes=query.get("outcome", frozenset()),
        since=query.get("since"),
        until=query.get("until"),
        worker_id=query["worker"],
        commit=query["commit"],
        fingerprint=query.get("fingerprint", ""),
        task_id=query.get("task_id", ""),
        text=query.get("text", ""),
        is_final=query.get("final"),
        min_run_ms=None if query.get("min_run") is None else -(-query["min_run"] // 1_000_000),
        **names,
    )


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
