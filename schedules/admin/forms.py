"""The form of a schedule. It has the fields of the API, and the same rules."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms

from queues.queries import get_fresh_catalog, resolve_queue
from runqy.admin_site.base_admin import StyledModelForm
from runqy.admin_site.times import LocalTimeField
from runqy.broker.tasks.enqueue import NewTask
from runqy.core.formats import durations
from runqy.errors import ConfigurationUnavailable, RunqyError
from runqy.redis_connection import get_broker
from schedules.definition_serializers import parse_schedule
from schedules.models import Schedule
from schedules.operations import check_due, check_schedule, is_retimed
from schedules.requested_tasks import ALLOWED_OPTIONS
from schedules.specs import CatchUp, Overlap, ScheduleSpec

_LINES = {"rows": 4, "spellcheck": "false"}
_TASK = ("queue", "payload", "options")
_ANY_TIMES = {"every": "1h"}
_OPTION_NAMES = ", ".join(ALLOWED_OPTIONS)


class ScheduleForm(StyledModelForm):
    """What is enqueued when."""

    # The version that the form was rendered from: `save_schedule` refuses to overwrite another user's changes.
    version = forms.CharField(required=False, widget=forms.HiddenInput)
    queue = forms.ChoiceField(help_text="The queue or sub-queue of the tasks.")
    payload = forms.CharField(
        widget=forms.Textarea(_LINES), initial="{}", help_text="JSON, checked by the queue's schema."
    )
    options = forms.CharField(
        widget=forms.Textarea(_LINES | {"rows": 2}),
        initial="{}",
        required=False,
        help_text=f"JSON with options of each task: {_OPTION_NAMES}.",
    )
    cron = forms.CharField(
        required=False,
        help_text="Minute, hour, day of month, month, day of week: 30 2 * * MON-FRI; or a name such as @daily.",
    )
    every = forms.CharField(required=False, help_text="Instead of cron: an interval such as 15m, of 10s or more.")
    time_zone = forms.CharField(
        # Browsers search the list that stands beside the preview for what is typed.
        widget=forms.TextInput({"list": "time-zones", "autocomplete": "off", "spellcheck": "false"}),
        help_text="Of the cron expression: type a city or a region, such as Berlin.",
    )
    jitter = forms.CharField(
        initial="0s", required=False, help_text="Each fire is later by a random time up to this, such as 30s."
    )
    starts_at = LocalTimeField(label="Starts at", help_text="First time that may be due.")
    ends_at = LocalTimeField(label="Ends at", is_end=True, help_text="Last time that may be due.")
    overlap = forms.ChoiceField(
        choices=[
            (Overlap.SKIP.value, "skip: fire only if all its tasks have ended"),
            (Overlap.ALLOW.value, "allow: fire also while one runs"),
        ]
    )
    catch_up = forms.ChoiceField(
        choices=[
            (CatchUp.LAST.value, "last: fire the last due time that passed"),
            (CatchUp.SKIP.value, "skip: wait for the next due time"),
        ],
        help_text="After an interruption of maintenance.",
    )
    catch_up_window = forms.CharField(
        required=False, help_text="How late a fire may be, such as 2h, at most 22h. Empty: one period."
    )

    class Meta:
        model = Schedule
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spec: ScheduleSpec | None = None
        self.requested: NewTask | None = None
        row = self.instance if isinstance(self.instance, Schedule) and self.instance.pk else None
        if "queue" not in self.fields:  # shown, not edited
            return
        self.fields["queue"].choices = [(name, name) for name in _list_queues(row)]  # type: ignore[attr-defined]
        if row is not None:
            self.initial.update(_as_texts(row) | {"version": row.version})

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        definition = _as_definition(cleaned)
        queue, payload, options = ({name: definition[name]} if name in definition else {} for name in _TASK)
        times = {name: value for name, value in definition.items() if name not in _TASK}
        # Each part for itself, so that an error of one hides none of another.
        with self._adding_errors():
            _check_task(queue | payload | _ANY_TIMES, "any")
        with self._adding_errors():
            parse_schedule(queue | options | _ANY_TIMES, name="any")
        with self._adding_errors():
            spec, _ = parse_schedule(queue | times, name="any")
            row = self.instance
            if not (isinstance(row, Schedule) and row.pk) or is_retimed(row, spec):
                check_due(spec, get_broker().now())
        if not self.errors:
            with self._adding_errors():
                name = str(cleaned.get("name") or self.instance.name)  # type: ignore[attr-defined]
                self.spec, self.requested = _check_task(definition, name)
        return cleaned

    @contextmanager
    def _adding_errors(self) -> Iterator[None]:
        """Add errors that are raised to their fields, unless a field has errors already."""
        wrong = set(self.errors)
        try:
            yield
        except RunqyError as error:
            for message in error.errors:
                path, _, text = message.partition(": ")
                field, _, member = path.partition(".")
                is_known = bool(text) and field in self.fields
                if field not in wrong:
                    self.add_error(field if is_known else None, text if is_known and not member else message)

    def clean_payload(self) -> Any:
        return _parse(self.cleaned_data["payload"] or "{}")

    def clean_options(self) -> Any:
        return _parse(self.cleaned_data["options"] or "{}")


def _check_task(definition: dict[str, Any], name: str) -> tuple[ScheduleSpec, NewTask]:
    spec, requested = parse_schedule(definition, name=name)
    check_schedule(get_broker(), requested=requested, resolved=resolve_queue(spec.queue))
    return spec, requested


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise forms.ValidationError(f"Must be JSON: {error}.") from error


def _list_queues(row: Schedule | None) -> list[str]:
    try:
        catalog = get_fresh_catalog(0)  # also the queue that was saved a moment ago
    except ConfigurationUnavailable:
        return [row.queue] if row else []
    names = {name for queue in catalog.definitions for name in (queue.name, *dict(catalog.redis_queues_of(queue)))}
    # A queue's own name is none of a Redis queue if it has no default sub-queue.
    return sorted({name for name in names if catalog.find(name)} | ({row.queue} if row else set()))


def _as_definition(cleaned: dict[str, Any]) -> dict[str, Any]:
    """Return what the form says as the API would get it."""
    texts = ("queue", "cron", "every", "time_zone", "jitter", "overlap", "catch_up", "catch_up_window")
    definition = {name: cleaned[name] for name in texts if cleaned.get(name)}
    times = {name: cleaned[name].isoformat() for name in ("starts_at", "ends_at") if cleaned.get(name)}
    return {**definition, **times, **{name: cleaned[name] for name in ("payload", "options") if name in cleaned}}


def _as_texts(row: Schedule) -> dict[str, Any]:
    window = row.catch_up_window_s
    return {
        "payload": json.dumps(json.loads(row.payload), indent=2, ensure_ascii=False),
        "options": json.dumps(row.options, ensure_ascii=False),
        "every": durations.format_short(row.every_s) if row.every_s else "",
        "jitter": durations.format_short(row.jitter_s) if row.jitter_s else "0s",
        "catch_up_window": "" if window is None else durations.format_short(window),
    }
