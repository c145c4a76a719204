"""The forms of vaults and entries. Values of secrets can be entered, but are never rendered."""

from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString

from runqy.admin_site.base_admin import StyledForm, StyledModelForm
from vaults.entry_rules import (
    EntryUsage,
    normalize_git_hosts,
    value_error,
)
from vaults.models import Vault, VaultEntry
from vaults.operations import EntryChange
from vaults.queries import EntryValue, get_entry_value

_SECRET, _READABLE = "runqy-value runqy-secret", "runqy-value"


class AtOnceField(forms.BooleanField):
    """Whether workers replace processes with other values without taking turns."""

    def __init__(self) -> None:
        help_text = "For a leaked secret: all workers replace their processes at once. Otherwise some at a time do, "
        help_text += "each when its new process is ready."
        super().__init__(required=False, label="Replace at once", help_text=help_text)


class VaultForm(StyledModelForm):
    replaces_at_once = AtOnceField()

    class Meta:
        model = Vault
        fields = ("name", "description")
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}
        help_texts = {
            "name": "Queues list it among their vaults. Cannot be changed later.",
            "description": "What the vault is for, and who maintains it.",
        }


class ValueInput(forms.Textarea):
    """An input for values of one or more lines. It does not render what was submitted."""

    rendered = ""
    """The stored value of an entry that is not secret."""

    def __init__(self) -> None:
        super().__init__({"rows": 1, "autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"})

    def format_value(self, value: Any) -> str:
        return self.rendered


class StoredKey(forms.TextInput):
    """The key of a stored entry as text, which can wrap. It is not submitted."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        return format_html('<code class="runqy-key" id="{}">{}</code>', (attrs or {}).get("id", ""), value)

    def id_for_label(self, id_: str) -> str:
        return ""


class GitHostsField(forms.CharField):
    """The hosts of a git token, separated by spaces or commas."""

    def __init__(self) -> None:
        attrs = {"placeholder": "none", "autocomplete": "off", "spellcheck": "false", "aria-label": "Git hosts"}
        help_text = "Hosts that a git token may be sent to, separated by commas, such as github.com."
        super().__init__(required=False, widget=forms.TextInput(attrs), empty_value="", help_text=help_text)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != list(initial or [])
        except forms.ValidationError:
            return True

    def clean(self, value: Any) -> list[str]:
        try:
            return normalize_git_hosts(str(value or "").replace(",", " ").split())
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class EntryForm(StyledModelForm):
    """An entry. An empty value keeps the stored one, unless the entry is no longer to be secret."""

    instance: VaultEntry
    value = forms.CharField(required=False, strip=False, widget=ValueInput)
    known_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    """The version that was rendered, so that a change by another user is not overwritten."""

    git_hosts = GitHostsField()

    class Meta:
        model = VaultEntry
        fields = ("key", "is_secret", "usage", "git_hosts")
        labels = {"is_secret": "Secret"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored: EntryValue | None = get_entry_value(self.instance) if self.instance.pk else None
        self.instance.stored = self.stored  # type: ignore[attr-defined]  # read now: validation changes the instance
        self.fields["key"].widget.attrs["autocomplete"] = "off"
        if "usage" in self.fields:
            self.fields["usage"].required = False
            _add_class(self.fields["usage"], "runqy-usage")
            _add_class(self.fields["git_hosts"], "runqy-hosts")
        if self.stored is None or "value" not in self.fields:
            if "value" in self.fields:
                _style_value(self.fields["value"], is_secret=True, placeholder="value")
            return
        self.fields["key"].disabled = True
        self.fields["key"].widget = StoredKey()
        is_secret = self.instance.is_secret or bool(self.stored.error)
        _style_value(self.fields["value"], is_secret=is_secret, placeholder="unchanged")
        if not is_secret:
            self.initial["value"] = self.stored.value
            self.fields["value"].widget.rendered = self.stored.value
        self.initial["known_version"] = self.instance.version

    def clean_usage(self) -> str:
        return self.cleaned_data["usage"] or str(self.initial.get("usage") or EntryUsage.ENVIRONMENT)

    def clean_git_hosts(self) -> list[str]:
        is_submitted = self.add_prefix("git_hosts") in self.data
        hosts: list[str] = self.cleaned_data["git_hosts"] if is_submitted else self.initial.get("git_hosts") or []
        return hosts

    def clean_value(self) -> str:
        # Browsers send line ends as CRLF.
        value: str = self.cleaned_data["value"]
        return value.replace("\r\n", "\n")

    @property
    def changed_data(self) -> list[str]:
        """The changed fields, without the version, and without a value that differs only in its line ends."""
        changed = [name for name in super().changed_data if name != "known_version"]
        submitted = {name for name in ("usage", "git_hosts") if self.add_prefix(name) in self.data}
        changed = [name for name in changed if name in submitted or name not in ("usage", "git_hosts")]
        entered = str(self.data.get(self.add_prefix("value"), "")).replace("\r\n", "\n")
        if self.stored and entered == self.initial.get("value", "") and "value" in changed:
            changed.remove("value")
        return changed

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("DELETE") or not self.has_changed():
            return cleaned
        self._refuse_extension(cleaned)
        if self.keeps_value:
            if not cleaned.get("is_secret") and self.instance.pk and self.initial.get("is_secret"):
                self.add_error("value", "Enter the value again to show it.")
        elif message := value_error(cleaned.get("value") or ""):
            self.add_error("value", message)
        return cleaned

    def _refuse_extension(self, cleaned: dict[str, Any]) -> None:
        # A user who does not know a secret must not be able to have it sent to another host.
        if "usage" not in cleaned or "git_hosts" not in cleaned or not self.stored or not self.keeps_value:
            return
        # Not `instance`, which validation has changed.
        before = VaultEntry(usage=self.initial["usage"], git_hosts=self.initial["git_hosts"])
        if not before.allows(EntryUsage(cleaned["usage"]), cleaned["git_hosts"]):
            self.add_error("value", "Enter the value again to extend its usage or its git hosts.")

    @property
    def keeps_value(self) -> bool:
        """Whether the value stays: none was entered for a stored secret."""
        return bool(self.stored and self.initial.get("is_secret") and not self.cleaned_data.get("value"))

    def to_edit(self) -> EntryChange | None:
        """Return the edit of the entry; None if it is unchanged."""
        cleaned = self.cleaned_data
        is_deleted = bool(cleaned.get("DELETE"))
        if (is_deleted and not self.stored) or not (is_deleted or self.has_changed()):
            return None
        return EntryChange(
            key=self.instance.key if self.stored else cleaned["key"],
            expected_version=cleaned.get("known_version") if self.stored else 0,
            value=None if is_deleted or self.keeps_value else cleaned["value"],
            is_secret=bool(cleaned.get("is_secret")),
            usage=EntryUsage(cleaned.get("usage") or EntryUsage.ENVIRONMENT),
            git_hosts=cleaned.get("git_hosts") or (),
            is_deleted=is_deleted,
        )


class EnvForm(StyledForm):
    """Lines of `KEY=value`. They are not rendered again."""

    lines = forms.CharField(strip=False, required=False, label="Lines", widget=ValueInput)
    replaces_at_once = AtOnceField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["lines"].widget.attrs |= {
            "rows": 12,
            "placeholder": 'API_TOKEN=…\nexport PRIVATE_KEY="-----BEGIN …',
        }


def _style_value(field: Any, *, is_secret: bool, placeholder: str) -> None:
    _add_class(field, _SECRET if is_secret else _READABLE)
    field.widget.attrs["placeholder"] = placeholder
    field.widget.attrs["aria-label"] = "Value"


def _add_class(field: Any, names: str) -> None:
    field.widget.attrs["class"] = f"{field.widget.attrs.get('class', '')} {names}".strip()
