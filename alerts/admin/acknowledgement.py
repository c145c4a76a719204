"""The page that acknowledges or snoozes an alert, or all of a queue."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.views.generic import FormView

from alerts.acknowledgement import NOTE_MAX_LENGTH, AlertSelection, acknowledge, resume, snooze
from alerts.models import Alert
from alerts.queries import find_snooze
from queues.models import Queue
from runqy.admin_site.base_admin import StyledForm
from runqy.admin_site.times import LocalTimeField, format_time
from runqy.admin_site.views import AdminViewMixin
from runqy.core.formats import durations
from runqy.errors import AlertResolved, RequestInvalid

_HOUR_S = 3600
_SPANS_S = (_HOUR_S // 2, _HOUR_S, 4 * _HOUR_S, 8 * _HOUR_S, 24 * _HOUR_S, 72 * _HOUR_S, 168 * _HOUR_S)


class AcknowledgeForm(StyledForm):
    """A note, and for how long a snooze is."""

    note = forms.CharField(
        required=False, max_length=NOTE_MAX_LENGTH, help_text="Shown with the alert: what you found, who works on it."
    )
    span = forms.TypedChoiceField(
        label="Snooze for",
        choices=[(seconds, durations.humanize_exactly(seconds)) for seconds in _SPANS_S],
        coerce=int,
        initial=_HOUR_S,
        required=False,
    )
    until = LocalTimeField(label="Or until", is_end=True, help_text="Empty: for the time above.")


class AcknowledgeView(AdminViewMixin, FormView):  # type: ignore[type-arg]
    """The form for an alert, or for a queue."""

    permission = "acknowledge"
    template_name = "alerts/acknowledge.html"
    form_class = AcknowledgeForm

    @cached_property
    def alert(self) -> Alert | None:
        """The alert that the URL names; None if it names a queue. Raise Http404."""
        number = self.request.GET.get("alert", "")
        if not number and Queue.objects.filter(name=self.queue).exists():
            return None
        is_number = number.isascii() and number.isdigit() and len(number) < 19
        alert = Alert.objects.filter(pk=number, opened_at__isnull=False).first() if is_number else None
        if alert is None:
            raise Http404
        return alert

    @property
    def queue(self) -> str:
        return self.request.GET.get("queue", "")

    def form_valid(self, form: AcknowledgeForm) -> HttpResponse:
        selection = AlertSelection(
            alert_id=self.alert.pk if self.alert else None, queue="" if self.alert else self.queue
        )
        note, until = form.cleaned_data["note"], form.cleaned_data["until"]
        verb = self.request.POST.get("verb")
        try:
            if verb == "snooze":
                until = until or timezone.now() + timedelta(seconds=form.cleaned_data["span"] or _HOUR_S)
                snooze(selection, until=until, note=note)
            elif verb in ("acknowledge", "resume"):
                acknowledge(selection, note=note) if verb == "acknowledge" else resume(selection)
            else:
                raise Http404
        except RequestInvalid as error:
            form.add_error("until", str(error).removeprefix("until: "))
            return self.form_invalid(form)
        except AlertResolved as error:
            messages.error(self.request, error.detail)
        else:
            done = {"snooze": f"Snoozed until {format_time(until, 'minute')}." if until else ""}
            messages.success(self.request, done.get(str(verb)) or f"{str(verb).capitalize()}d.")
        return HttpResponseRedirect(reverse("admin:alerts_alert_changelist"))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = {"alert": self.alert, "queue": self.queue, "snooze": find_snooze(self.queue)}
        about = "the alert" if self.alert else f"the alerts of {self.queue}"
        return super().get_context_data(**kwargs) | context | {"title": f"Acknowledge or snooze {about}"}
