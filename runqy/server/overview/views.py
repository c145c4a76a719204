"""The overview page of the admin, and the parts of it that are refreshed while it is open."""

from typing import Any

from django.contrib.auth.mixins import PermissionRequiredMixin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.views.generic import TemplateView, View

from queues.queries import get_fresh_catalog
from runqy.errors import ConfigurationUnavailable, QueueNotFound
from runqy.server.overview.charts import ChartRange, read_charts
from runqy.server.overview.numbers import PERMISSIONS, read_numbers

_MAX_MARKS = 20
"""The number of releases that are listed below the charts, the newest ones."""


def add_overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the page, with what the user may see. Unfold calls this."""
    numbers = read_numbers(_permissions(request), is_fresh=True)
    origin = {"origin": request.build_absolute_uri("/").rstrip("/")}
    return context | origin | numbers | _chart_context(request)


class LiveView(TemplateView):
    """Render notices, numbers and the busiest queues."""

    template_name = "admin_site/overview_live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        numbers = read_numbers(_permissions(self.request), is_fresh=False)
        return super().get_context_data(**kwargs) | numbers


class ChartsView(PermissionRequiredMixin, View):
    """Render the charts of `queue`, or of all queues, over `range`."""

    permission_required = "queues.view_queue"

    def get(self, request: HttpRequest) -> HttpResponse:
        try:
            return HttpResponse(_render_charts(request, *_parse_chart_query(request)))
        except QueueNotFound as error:
            raise Http404(error.detail) from error


def _permissions(request: HttpRequest) -> frozenset[str]:
    return frozenset(permission for permission in PERMISSIONS if request.user.has_perm(permission))


def _chart_context(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the charts, and of the form that selects them."""
    if not request.user.has_perm("queues.view_queue"):
        return {}
    chart_range, queue = _parse_chart_query(request)
    try:
        names = [queue.name for queue in get_fresh_catalog().definitions]
    except ConfigurationUnavailable:
        names = [queue] if queue else []
    charts, error = SafeString(""), ""
    try:
        charts = _render_charts(request, chart_range, queue)
    except QueueNotFound as not_found:
        error = not_found.detail
    else:
        names += [queue] if queue and queue not in names else []
    return {
        "charts": charts,
        "chart_error": error,
        "chart_range": chart_range,
        "chart_ranges": list(ChartRange),
        "chart_queue": queue,
        "queue_names": names,
    }


def _render_charts(request: HttpRequest, chart_range: ChartRange, queue: str) -> SafeString:
    charts = read_charts(chart_range, queue)
    context = {
        "charts": charts,
        "marks": charts[0].marks[::-1][:_MAX_MARKS],
        "ticks": chart_range.ticks(queue),
        "chart_queue": queue,
        "has_links": request.user.has_perm("tasks.view_task"),
    }
    return render_to_string("admin_site/charts.html", context)


def _parse_chart_query(request: HttpRequest) -> tuple[ChartRange, str]:
    """Return the range and the queue in the URL. An invalid range is the default, no queue an empty string."""
    wanted = request.GET.get("range", "")
    chart_range = ChartRange(wanted) if wanted in list(ChartRange) else ChartRange.HOUR
    return chart_range, request.GET.get("queue", "")[:255]
