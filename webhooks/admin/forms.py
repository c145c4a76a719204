"""The form of a webhook endpoint."""

import re
from collections.abc import Mapping
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from queues.models import Queue
from runqy.admin_site.base_admin import StyledModelForm
from webhooks.models import Endpoint, EndpointEvent, EndpointKind, EndpointLevel
from webhooks.operations import DROP, KEEP_SENDING
from webhooks.queries import count_kept


class HeadersField(forms.CharField):
    """Headers, one `Name: value` a line."""

    def __init__(self, **options: Any) -> None:
        attrs = {"rows": 3, "spellcheck": "false", "autocomplete": "off", "placeholder": "Authorization: Bearer …"}
        super().__init__(widget=forms.Textarea(attrs=attrs), required=False, **options)

    def clean(self, value: Any) -> Mapping[str, str] | None:
        """Return the headers; None for an empty field."""
        headers: dict[str, str] = {}
        for number, line in enumerate(super().clean(value).splitlines(), start=1):
            name, mark, content = line.partition(":")
            if line.strip() and not mark:
                raise forms.ValidationError(f"Line {number}: Must be Name: value.")
            if line.strip():
                headers[name.strip()] = content.strip()
        return headers or None


class RecipientsField(forms.CharField):
    """Addresses, separated by commas or lines."""

    def __init__(self, **options: Any) -> None:
        attrs = {"rows": 2, "spellcheck": "false", "placeholder": "ops@example.com"}
        super().__init__(widget=forms.Textarea(attrs=attrs), required=False, **options)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        return [word for word in re.split(r"[\s,;]+", super().clean(value)) if word]


class EndpointForm(StyledModelForm):
    """An endpoint, validated by the rules of the API."""

    instance: Endpoint

    queues = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Empty: all queues, also those that are added later.",
    )
    events = forms.MultipleChoiceField(
        choices=EndpointEvent.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=[EndpointEvent.TASK_COMPLETED.value, EndpointEvent.TASK_ARCHIVED.value],
        help_text="Events that it receives: those of tasks that are enqueued from now on, and alerts. "
        "Slack and e-mail: only alerts.",
    )
    recipients = RecipientsField(help_text="Of e-mail: addresses, separated by commas.")
    levels = forms.MultipleChoiceField(
        choices=EndpointLevel.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Only alerts of these levels. None selected: all.",
    )
    kept = forms.ChoiceField(
        required=False,
        label="Messages that wait",
        widget=forms.RadioSelect,
        choices=[(KEEP_SENDING, "Send them when it is enabled"), (DROP, "Drop them")],
        initial=KEEP_SENDING,
    )
    headers_text = HeadersField(label="Headers")
    remove_headers = forms.BooleanField(required=False, label="Remove the headers")
    # The version that the form was rendered from: changes of others, and of the server, are not overwritten.
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Endpoint
        fields = (
            *("kind", "url", "recipients", "queues", "events", "levels", "include_result", "is_enabled", "in_flight"),
        )
        help_texts = {
            "kind": "Webhook: signed POST requests. Slack: an incoming webhook of Slack, or of what accepts the same."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "queues" not in self.fields:  # a read-only page has no fields
            return
        is_known = self.instance.created_at is not None
        self.initial["version"] = self.instance.version if is_known else ""
        waiting = count_kept(self.instance) if is_known else 0
        if waiting:
            self.fields["kept"].help_text = f"{waiting:,} wait."
        else:
            del self.fields["kept"]
        names = dict.fromkeys([*Queue.objects.values_list("name", flat=True), *(self.instance.queues or ())])
        self.fields["queues"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        if self.instance.kind == EndpointKind.SLACK:
            self.initial["url"] = ""
            self.fields["url"].help_text = f"Stored encrypted, on {self.instance.url}. Empty: it is kept."
        stored = ", ".join(self.instance.header_names)
        kept = f" Stored: {stored}. Empty: they are kept; what you enter replaces them." if stored else ""
        if "headers_text" in self.fields:
            self.fields["headers_text"].help_text = f"One Name: value a line, stored encrypted.{kept}"
        if not stored:
            self.fields.pop("remove_headers", None)

    def list_members(self) -> dict[str, Any]:
        """Return what was entered, as the operations take it."""
        cleaned = self.cleaned_data
        others = {"headers_text", "remove_headers", "version"}
        if self.instance.created_at and "is_enabled" not in self.changed_data:
            others |= {"is_enabled", "kept"}  # one that the server disabled stays so
        members = {name: value for name, value in cleaned.items() if name not in others}
        if self.instance.kind == EndpointKind.SLACK and not members["url"]:
            del members["url"]
        headers = {} if cleaned.get("remove_headers") else cleaned.get("headers_text")
        return members | ({"headers": headers} if headers is not None else {})
