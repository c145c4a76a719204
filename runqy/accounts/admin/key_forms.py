"""What staff say about a new key."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from runqy.accounts.identity import Role
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import key_problems
from runqy.accounts.queries import queue_names, vault_names
from runqy.staff.pages import StaffModelForm

ROLES = {
    Role.CLIENT: "creates tasks, reads their results, cancels and deletes them",
    Role.WORKER: "registers workers, which get code, secrets and access to Redis; nothing else",
    Role.ADMIN: "does everything, also makes other keys",
}
"""What a key may do, in words."""

ON_A_DAY, NEVER = "day", "never"
LIFETIMES = {"30": "in 30 days", "90": "in 90 days", "365": "in a year", ON_A_DAY: "after a day", NEVER: "never"}


class ApiKeyForm(StaffModelForm):
    """A new key, checked by the rules of the API."""

    role = forms.ChoiceField(
        choices=[(role.value, f"{role.value}: {does}") for role, does in ROLES.items()],
        initial=Role.CLIENT.value,
        widget=forms.RadioSelect,
    )
    queues = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="It sees only these queues. Leave it empty for all, also those to come.",
    )
    vaults = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="Only for workers, which are refused for queues that need other vaults. Leave it empty for all.",
    )
    lifetime = forms.ChoiceField(
        label="Expires", choices=list(LIFETIMES.items()), initial="90", help_text="A key cannot be prolonged."
    )
    last_day = forms.DateField(
        required=False,
        label="Last day (UTC)",
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
    )

    class Meta:
        model = ApiKey
        fields = ("name", "role", "queues", "vaults", "rate_limit")
        help_texts = {
            "name": "Who or what uses it, such as “shop backend”.",
            "rate_limit": "How many requests it may send: 50/s, 600/m, 10000/h. Empty: as the server's setting says.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer the queues and vaults that there are."""
        super().__init__(*args, **kwargs)
        if "queues" in self.fields:  # a page that only shows a key has no fields
            self.fields["queues"].choices = [(name, name) for name in queue_names()]  # type: ignore[attr-defined]
            self.fields["vaults"].choices = [(name, name) for name in vault_names()]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Put each problem beside its field."""
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        if cleaned["lifetime"] == ON_A_DAY and not cleaned["last_day"]:
            self.add_error("last_day", "Say on which day it is used last.")
            return cleaned
        cleaned["expires_at"] = _expiry(cleaned)
        names = ("name", "role", "queues", "vaults", "expires_at", "rate_limit")
        for field, sentence in key_problems(**{name: cleaned[name] for name in names}):
            self.add_error("last_day" if field == "expires_at" else field, f"{sentence[:1].upper()}{sentence[1:]}.")
        return cleaned


def _expiry(cleaned: dict[str, Any]) -> datetime | None:
    """Return when a key ends; a day is included as a whole."""
    if cleaned["lifetime"] == NEVER:
        return None
    if cleaned["lifetime"] != ON_A_DAY:
        return timezone.now() + timedelta(days=int(cleaned["lifetime"]))
    try:
        return datetime.combine(cleaned["last_day"] + timedelta(days=1), time(), UTC)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
