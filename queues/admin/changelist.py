"""The list of queues: which columns it has, and that it is sorted by what Redis and the history have of queues."""

from typing import Any

from django.contrib.admin.views.main import ORDER_VAR
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.views import ChangeList

from queues.admin.columns import PROBLEMS_FIRST, health, sort_queues
from queues.admin.views import add_list_status

_LISTED_FIELDS = ("name", "is_enabled", "priority", "mode", "source")


class QueueChangeList(ChangeList):  # type: ignore[misc]
    """Reads and sorts all queues, since the database has neither health nor counts, and shows a page of them."""

    ordering: tuple[str, ...]
    queryset: QuerySet[Any]

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:
        """Return any order for the database, and keep the one that was asked for."""
        chosen = super().get_ordering(request, queryset) if self.params.get(ORDER_VAR) else ()
        self.ordering = (*(field for field in chosen if field != "-pk"), *PROBLEMS_FIRST)
        return ["name"]

    def get_ordering_field_columns(self) -> dict[int, str]:
        if not self.params.get(ORDER_VAR):
            return {self.list_display.index(health): "asc"}
        columns: dict[int, str] = super().get_ordering_field_columns()
        return columns

    def get_results(self, request: HttpRequest) -> None:
        # Read first: of rows that are read, the paginator asks no number.
        self.queryset = self.queryset.prefetch_related(None).only(*_LISTED_FIELDS)
        queues = list(self.queryset)
        super().get_results(request)
        add_list_status(request, queues)
        self.result_list = sort_queues(queues, self.ordering)
        if self.multi_page and not (self.show_all and self.can_show_all):
            first = (self.page_num - 1) * self.list_per_page
            self.result_list = self.result_list[first : first + self.list_per_page]
