"""The form of a new API key."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from runqy.accounts.models import ApiKey
from runqy.accounts.queries import list_queue_names, list_vault_names
from runqy.accounts.validators import validate_expiry
from runqy.admin_site.base_admin import StyledModelForm
from runqy.admin_site.times import start_of_day, zone_label
from runqy.core.api_keys import Role

ROLES = {
    Role.CLIENT: "for programs that use queues. Enqueues tasks, reads their state, results and history, cancels and "
    "deletes them. Cannot change the configuration.",
    Role.WORKER: "for runqy-worker. Only registers workers, which receive the code, the vaults and the tasks of their "
    "queues.",
    Role.METRICS: "for Prometheus. Only reads /metrics, the numbers of all queues.",
    Role.VIEWER: "for people who look on. Reads what has no payloads: queues, workers, alerts, statistics, "
    "vaults without secret values, keys, the audit.",
    Role.OPERATOR: "for people who look after tasks. Like viewer and client, with payloads; also runs and "
    "archives tasks, and pauses queues and schedules.",
    Role.CONFIGURATOR: "for people who configure. Like viewer, with payloads; also changes queues, vaults, "
    "schedules and webhooks, but not tasks.",
    Role.ADMIN: "for the command line and automation. Can do everything, including changing queues and vaults and "
    "creating API keys; a key that is limited to queues, only on these queues.",
}

ON_A_DAY, NEVER = "day", "never"
LIFETIMES = {"30": "in 30 days", "90": "in 90 days", "365": "in a year", ON_A_DAY: "after a chosen day", NEVER: "never"}


class ApiKeyForm(StyledModelForm):
    """A new key, validated by the rules of the API."""

    role = forms.ChoiceField(
        choices=[(role.value, f"{role.value}: {text}") for role, text in ROLES.items()],
        initial=Role.CLIENT.value,
        widget=forms.RadioSelect,
    )
    queues = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="A limited key can see and use only these queues. Empty: all queues, including those added later. "
        "Not for role metrics.",
    )
    vaults = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Only for role worker: workers with a limited key receive the values of these vaults only, and "
        "cannot register for a queue that uses another vault. Empty: all vaults.",
    )
    lifetime = forms.ChoiceField(
        label="Expires",
        choices=list(LIFETIMES.items()),
        initial="90",
        help_text="An expired key is refused, like a revoked one. The expiry and the rights of a key cannot be changed "
        "later: create another key, and revoke the old one.",
    )
    last_day = forms.DateField(
        required=False,
        label=zone_label("Last day"),
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
    )

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = ("name", "role", "queues", "vaults", "rate_limit", "allow_shared_redis")
        labels = {"allow_shared_redis": "Allow shared Redis"}
        help_texts = {
            "name": "Who or what uses the key, such as “shop backend”. The audit shows it with what the key did.",
            "rate_limit": "Maximum requests per second, minute or hour: 50/s, 600/m, 10000/h. More are refused with "
            "status 429. Empty: the limit of the server, RUNQY_RATE_LIMIT, if it has one.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "queues" in self.fields:  # a read-only page has no fields
            self.fields["queues"].choices = [(name, name) for name in list_queue_names()]  # type: ignore[attr-defined]
            self.fields["vaults"].choices = [(name, name) for name in list_vault_names()]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        if cleaned["lifetime"] == ON_A_DAY and not cleaned["last_day"]:
            self.add_error("last_day", "Choose the last day.")
            return cleaned
        cleaned["expires_at"] = _expiry(cleaned)
        if cleaned["expires_at"]:
            try:
                validate_expiry(cleaned["expires_at"])
            except forms.ValidationError as error:
                self.add_error("last_day", error)
        return cleaned


def _expiry(cleaned: dict[str, Any]) -> datetime | None:
    """Return when the key expires: at the end of the chosen day of the reader."""
    if cleaned["lifetime"] == NEVER:
        return None
    if cleaned["lifetime"] != ON_A_DAY:
        return timezone.now() + timedelta(days=int(cleaned["lifetime"]))
    try:
        return start_of_day(cleaned["last_day"] + timedelta(days=1))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
