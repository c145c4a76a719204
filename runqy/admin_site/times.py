"""Times in the zone of the reader, which `TimeZoneMiddleware` activates for the admin: exact, with UTC when pointed at,
or relative to now.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.functional import lazy
from django.utils.html import format_html
from django.utils.safestring import SafeString

from runqy.core.formats import durations

_FORMATS = {"day": "%Y-%m-%d", "minute": "%Y-%m-%d %H:%M", "second": "%Y-%m-%d %H:%M:%S"}
_FIELD_FORMAT = "%Y-%m-%dT%H:%M:%S"
_GRACE_NS = 10 * 10**9
"""How late something may be before it is overdue. Maintenance does what is due within seconds."""


def format_time(at: datetime, precision: str = "second") -> str:
    """Return a time in the reader's zone: `2026-03-01 12:00:00`, or up to the `day` or `minute`."""
    return f"{to_reader(at):{_FORMATS[precision]}}"


def show_time(at: datetime | None, precision: str = "second", *, text: str = "") -> SafeString:
    """Return a time as HTML in the reader's zone, or with another text, and with UTC as its title; empty for None."""
    if not at:  # a template calls a filter with an empty string for what it does not find
        return SafeString("")
    html = '<time datetime="{}" title="{}">{}</time>'
    return format_html(html, format_absolute(at), format_utc(at), text or format_time(at, precision))


def format_utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):{_FORMATS['second']}} UTC"


def format_absolute(at: datetime) -> str:
    """Return a time as in RFC 3339, to the second, as URLs and scripts have it."""
    return f"{at.astimezone(UTC):{_FIELD_FORMAT}}Z"


def to_reader(at: datetime) -> datetime:
    """Return a time in the reader's zone; at the ends of the calendar, where the zone has no such time, in UTC."""
    try:
        return timezone.localtime(at)
    except OverflowError:
        return at.astimezone(UTC)


def start_of_day(day: date) -> datetime:
    """Return when a day begins in the reader's zone; at the ends of the calendar in UTC."""
    try:
        return datetime.combine(day, time(), timezone.get_current_timezone()).astimezone(UTC)
    except OverflowError:
        return datetime.combine(day, time(), UTC)


def _label(text: str) -> str:
    return f"{text} ({timezone.get_current_timezone_name()})"


zone_label = lazy(_label, str)
"""Returns a label with the zone of the reader, who is not known before it is rendered."""


class LocalTimeField(forms.DateTimeField):
    """A time typed in the reader's zone, or with an offset, as it is in links.

    Where clocks are set back or forward a time may exist twice or not at all. It is the earlier one of those it could
    be, or for the end of a period the later one.
    """

    def __init__(self, *, label: str, is_end: bool = False, **options: Any) -> None:
        self._choose = max if is_end else min
        widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format=_FIELD_FORMAT)
        errors = {"invalid": "Enter a time, such as 2026-03-01T12:00."}
        super().__init__(label=zone_label(label), required=False, widget=widget, error_messages=errors, **options)

    def to_python(self, value: Any) -> datetime | None:
        try:
            typed = parse_datetime(value.strip()) if isinstance(value, str) else value
            value = self._to_utc(typed) if isinstance(typed, datetime) else value
        except (ValueError, OverflowError):
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid") from None
        return super().to_python(value)

    def _to_utc(self, typed: datetime) -> datetime:
        if timezone.is_aware(typed):
            return typed.astimezone(UTC)
        zone = timezone.get_current_timezone()
        return self._choose(typed.replace(fold=fold, tzinfo=zone).astimezone(UTC) for fold in (0, 1))

    def prepare_value(self, value: Any) -> Any:
        # A browser's field shows no time with an offset.
        try:
            typed = parse_datetime(value) if isinstance(value, str) else value
            if isinstance(typed, datetime) and timezone.is_aware(typed):
                return timezone.make_naive(typed)
        except (ValueError, OverflowError):
            pass
        return value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RelativeTime:
    """A timestamp relative to another, both in Unix nanoseconds. `admin_site/relative_time.html` renders it."""

    at_ns: int
    now_ns: int
    is_due: bool = False
    """Whether something will happen at this time, so that it is overdue when the time has passed."""

    @classmethod
    def of_s(cls, at_s: int | None, now_ns: int, *, is_due: bool = False) -> "RelativeTime | None":
        """Return the time at these Unix seconds; None for None or 0."""
        return cls(at_s * 10**9, now_ns, is_due) if at_s else None

    @classmethod
    def of_ns(cls, at_ns: int | None, now_ns: int) -> "RelativeTime | None":
        """Return the time at these Unix nanoseconds; None for None or 0."""
        return cls(at_ns, now_ns) if at_ns else None

    @classmethod
    def of_datetime(cls, at: datetime, now_ns: int) -> "RelativeTime":
        return cls(int(at.timestamp() * 1e9), now_ns)

    @property
    def distance(self) -> str:
        """The difference, such as `2 h 5 min`."""
        # Of whole seconds, since some timestamps have no fractions.
        return durations.humanize(self.at_ns // 10**9 - self.now_ns // 10**9)

    @property
    def is_overdue(self) -> bool:
        return self.is_due and self.now_ns - self.at_ns >= _GRACE_NS

    @property
    def relative(self) -> str:
        """The difference with its direction: `in 5 min`, `5 min ago`, `5 min overdue`."""
        if self.is_due and self.at_ns <= self.now_ns:
            return f"{self.distance} overdue" if self.is_overdue else "due now"
        return f"in {self.distance}" if self.at_ns > self.now_ns else f"{self.distance} ago"

    @property
    def iso(self) -> str:
        return format_absolute(self._at())

    @property
    def exact(self) -> SafeString:
        """The time in the reader's zone, as HTML."""
        return show_time(self._at())

    @property
    def title(self) -> str:
        """The time in the reader's zone, and in UTC if that is another."""
        exact, utc = format_time(self._at()), format_utc(self._at())
        return utc if utc.startswith(exact) else f"{exact} ({utc})"

    def _at(self) -> datetime:
        try:
            return _EPOCH + timedelta(seconds=self.at_ns // 10**9)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)
