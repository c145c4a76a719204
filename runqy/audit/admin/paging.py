"""Pages through records by their numbers: no page is counted out, and the last is as fast as the first."""

from dataclasses import dataclass
from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest

from runqy.audit import queries

OLDER, NEWER = "before", "after"
"""Parameters: the number of the record before or after which a page begins."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The links below the list, in the place of Django's paginator."""

    newest: str
    newer: str
    older: str
    template_name: str = "audit/pages.html"


class RecordList(ChangeList):
    """A page of the records that were asked for."""

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Take the page's place out of the parameters, so that other links begin with the first page again.

        Parameters without a value are those of filters that were left empty.
        """
        self.older_than, self.newer_than = _number(request, OLDER), _number(request, NEWER)
        asked = request.GET.copy()
        for name, values in request.GET.lists():
            asked.setlist(name, [] if name in (OLDER, NEWER) else [value for value in values if value])
            if not asked.getlist(name):
                del asked[name]
        request.GET = asked  # type: ignore[assignment]
        super().__init__(request, *args, **kwargs)

    def get_results(self, request: HttpRequest) -> None:
        """Fetch the page."""
        page = queries.get_page(
            self.queryset, size=self.list_per_page, older_than=self.older_than, newer_than=self.newer_than
        )
        self.result_list = page.rows
        self.result_count = len(page.rows)
        self.full_result_count = self.result_count  # else the title offers to show all
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False
        self.paginator = Pages(
            newest=self.get_query_string() if page.newer_than is not None else "",
            newer=self._link(NEWER, page.newer_than),
            older=self._link(OLDER, page.older_than),
        )

    def _link(self, parameter: str, number: int | None) -> str:
        """Return the link to a page; empty where there is none."""
        return "" if number is None else self.get_query_string({parameter: number})


def _number(request: HttpRequest, parameter: str) -> int | None:
    """Return the number in a parameter, or None."""
    text = request.GET.get(parameter, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
