"""The filter of the pages of tasks: a form whose fields are the query of the page's URL."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from django import forms
from django.http import HttpRequest, QueryDict
from django.utils import timezone

from queues.queries import HIDDEN, get_fresh_catalog
from runqy.admin_site.times import LocalTimeField, format_absolute, format_time, show_time, start_of_day
from runqy.broker.states import FAILURES, RunOutcome, TaskState
from runqy.broker.tasks.listing import LISTED_STATES
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import ANY_FAILURE, ENDED, OUTCOME_NAMES, STATE_NAMES, tasks_url
from tasks.history.queries import RunOrder
from tasks.search import TaskQuery

PERIODS = {
    "hour": ("Last hour", timedelta(hours=1)),
    "today": ("Today", None),
    "day": ("Last 24 hours", timedelta(days=1)),
    "week": ("Last 7 days", timedelta(days=7)),
}
_MAX_SUGGESTIONS = 200
_ENDED_ONLY = ("outcome", "period", "worker", "commit", "since", "until", "error")
"""The conditions that apply to the history only."""
_CONDITIONS = ("parent", "queue", "text", *_ENDED_ONLY)


class Chip(NamedTuple):
    """A condition that is not in the first row of the form, and the URL of the page without it."""

    label: str
    url: str


class TaskFilterForm(forms.Form):
    """The filter of tasks. Fields in `_ENDED_ONLY` apply to ended tasks only, and are ignored for others."""

    state = forms.ChoiceField(
        required=False,
        choices=[
            ("History", [(ENDED, "Ended")]),
            ("In Redis", [(state.value, STATE_NAMES[state]) for state in LISTED_STATES]),
        ],
    )
    text = forms.CharField(
        required=False,
        max_length=300,
        label="Text in payload or error",
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Order id, name, part of an error …"}),
    )
    queue = forms.CharField(
        required=False,
        max_length=255,
        widget=forms.TextInput(attrs={"list": "queue-names", "placeholder": "All queues"}),
    )
    outcome = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Any outcome"),
            (ANY_FAILURE, "Any failure"),
            *((outcome.value, name) for outcome, name in OUTCOME_NAMES.items()),
        ],
    )
    period = forms.ChoiceField(
        required=False,
        choices=[("", "Any time"), *((value, name) for value, (name, _) in PERIODS.items())],
        label="Ended",
    )
    sort = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Newest first"),
            (RunOrder.OLDEST.value, "Oldest first"),
            (RunOrder.SLOWEST.value, "Slowest first"),
        ],
    )
    worker = forms.CharField(required=False, max_length=255)
    commit = forms.CharField(required=False, max_length=64)
    since = LocalTimeField(label="Ended from")
    until = LocalTimeField(label="Ended before", is_end=True)
    error = forms.CharField(required=False, max_length=32, label="Error group", widget=forms.HiddenInput)

    def __init__(self, data: Mapping[str, Any], *, may_search: bool) -> None:
        """Without `may_search` the form has no field for a text, and ignores one in the data."""
        super().__init__(data)
        self.ignores_text = not may_search and bool(data.get("text"))
        for field in self.fields.values():
            field.widget.attrs["class"] = "page-input"
        if not may_search:
            del self.fields["text"]

    def query(self) -> TaskQuery:
        cleaned = self.cleaned_data
        state, outcome = cleaned["state"] or ENDED, cleaned["outcome"]
        if state != ENDED:
            return TaskQuery(state=TaskState(state), queue=cleaned["queue"], text=cleaned.get("text", ""))
        outcomes = sorted(FAILURES) if outcome == ANY_FAILURE else [RunOutcome(outcome)] if outcome else []
        return TaskQuery(
            queue=cleaned["queue"],
            text=cleaned.get("text", ""),
            outcomes=tuple(outcomes),
            since=cleaned["since"] or start_of_period(cleaned["period"]),
            until=cleaned["until"],
            worker_id=cleaned["worker"],
            commit=cleaned["commit"],
            fingerprint=cleaned["error"],
        )

    @property
    def ignored(self) -> list[str]:
        """Return the conditions of a valid form that are set but do not apply to tasks in its state."""
        if (self.cleaned_data["state"] or ENDED) == ENDED:
            return []
        return [name for name in _ENDED_ONLY if self.cleaned_data[name]]

    @property
    def order(self) -> RunOrder:
        return RunOrder(self.cleaned_data["sort"] or RunOrder.NEWEST)


def read_filter(request: HttpRequest) -> TaskFilterForm:
    """Return the form of a request. `parent`, which the links of counts have, is a queue."""
    fields = request.GET.copy()
    if parent := fields.get("parent"):
        fields.setdefault("queue", parent)
    return make_form(request, fields)


def make_form(request: HttpRequest, fields: QueryDict) -> TaskFilterForm:
    """Return the form with these fields. It ignores a text if the user may not view payloads of all queues searched."""
    # URLs are shared between users: one with a text must not fail, nor tell others what payloads contain.
    may_search = can_view_payloads(request.user, fields.get("queue", "").strip())
    return TaskFilterForm(fields, may_search=may_search)


def is_filtered(query: QueryDict) -> bool:
    """Return whether a URL requests ended tasks, rather than the queues or the list of one."""
    names = ("text", "outcome", "period", "sort", "worker", "commit", "since", "until", "error")
    return query.get("state") == ENDED or any(query.get(name) for name in names)


def filter_context(request: HttpRequest, form: TaskFilterForm) -> dict[str, Any]:
    """Return the context for the template of the form."""
    catalog = get_fresh_catalog()
    names = [name for queue in catalog.definitions[:_MAX_SUGGESTIONS] for name in _names_of(queue, catalog.separator)]
    more, state = ("worker", "commit", "since", "until"), request.GET.get("state") or ENDED
    ignored = form.ignored if form.is_valid() else []
    return {
        "form": form,
        "queue_names": names,
        "is_foldable": not any(request.GET.get(name) for name in (*_ENDED_ONLY, "sort")),
        "has_more": any(request.GET.get(name) for name in more),
        "chips": list(_chips(request.GET, form)) if state == ENDED else [],
        "ignored": [form.fields[name].label or name.title() for name in ignored],
        "without_ignored_url": page_url(request, **dict.fromkeys(ignored, ""), cursor=""),
        "without_text_url": page_url(request, text="", cursor=""),
        "is_ended": state == ENDED,
        "is_unfiltered": not any(request.GET.get(name) for name in _CONDITIONS),
        "clear_url": tasks_url(state=state),
        "first_url": page_url(request, cursor=""),
    }


def describe(query: TaskQuery, user: Any) -> list[tuple[str, str]]:
    """Return the conditions of a filter. Its text is hidden from users who may not view payloads."""
    text = query.text if not query.text or can_view_payloads(user, query.queue) else HIDDEN
    outcome = "Any failure" if len(query.outcomes) > 1 else "".join(OUTCOME_NAMES[each] for each in query.outcomes)
    pairs = [
        ("State", STATE_NAMES[query.state] if query.state else "Ended"),
        ("Queue", query.queue or "All queues"),
        ("Outcome", outcome),
        ("Text", text),
        ("Error group", query.fingerprint),
        ("Worker", query.worker_id),
        ("Commit", query.commit),
        ("Ended from", show_time(query.since)),
        ("Ended before", show_time(query.until)),
    ]
    return [(name, value) for name, value in pairs if value]


def start_of_period(name: str) -> datetime | None:
    """Return the start of a period of PERIODS, in whole minutes as counts have it; None for an empty name."""
    if not name:
        return None
    now, (_, length) = timezone.now(), PERIODS[name]
    start = now - length if length else start_of_day(timezone.localdate(now))
    return start.replace(second=0, microsecond=0)


def page_url(request: HttpRequest, **changes: str) -> str:
    """Return the URL of the page with other fields. Empty fields are removed."""
    values = {**request.GET.dict(), **changes}
    return f"{request.path}?{urlencode({name: value for name, value in values.items() if value})}"


def url_with_absolute_times(request: HttpRequest, form: TaskFilterForm) -> str:
    """Return the URL of the page without times of the reader's zone; empty if it is the one that was requested."""
    times = {name: time for name in ("since", "until") if (time := form.cleaned_data[name])}
    absolute = {name: format_absolute(time) for name, time in times.items()}
    return page_url(request, **absolute) if any(request.GET[name] != absolute[name] for name in absolute) else ""


def _chips(query: QueryDict, form: TaskFilterForm) -> Iterator[Chip]:
    labels = {"error": "Error group", "worker": "Worker", "commit": "Commit", "since": "From", "until": "Before"}
    for name, label in labels.items():
        if value := query.get(name):
            rest = {key: each for key, each in query.dict().items() if key not in (name, "cursor")}
            time = form.cleaned_data.get(name) if name in ("since", "until") else None
            text = format_time(time) if time else value[:12] if name in ("error", "commit") else value
            yield Chip(f"{label} {text}", f"?{urlencode(rest)}")


def _names_of(queue: Any, separator: str) -> list[str]:
    redis_queues = [name for name, _ in queue.redis_queues(separator)]
    return [queue.name, *(name for name in redis_queues if name != queue.name)]


def with_absolute_times(query: TaskQuery) -> TaskQuery:
    """Return a filter whose times are whole seconds, as they are in URLs."""
    cut = {name: time.replace(microsecond=0) for name in ("since", "until") if (time := getattr(query, name))}
    return msgspec.structs.replace(query, **cut)
