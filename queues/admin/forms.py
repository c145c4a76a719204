"""The form of a queue, and of its sub-queues on its page. Fields and rules are those of the models."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from django import forms
from django.db import models
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest

from queues.admin.fields import (
    EnvVarsField,
    FieldRow,
    HostsField,
    PanelField,
    RowsField,
    VaultRow,
)
from queues.definition_serializers import column_field
from queues.definitions import Limits, QueueSpec, SubQueueSpec, format_limit
from queues.models import DEFAULTS, DEPLOYMENT_COLUMNS, LIMIT_COLUMNS, QUEUE_COLUMNS, Queue, SubQueue
from queues.operations import spec_version
from queues.payload_schema import example_body, example_curl, example_payload, example_queue_name
from queues.queries import default_limits
from runqy.admin_site.base_admin import RunqyTabularInline, StyledForm, StyledModelForm
from runqy.admin_site.forms import DurationFormField, SizeFormField
from runqy.broker.workers.records import WorkerRecord
from runqy.core.formats import durations, sizes
from vaults.queries import ReferencedEntry, find_git_token_error, list_references

ROWS = ("vaults", "input", "output")
_BASICS = ("name", "is_enabled", "mode", "priority", "order")
_REPOSITORY = ("git_url", "branch", "git_token", "check")
_VAULTS = ("vaults",)
_PAYLOAD = ("input", "example", "output")
BASICS = "Basics"


def _help_text(column: str) -> str:
    return str(column_field(column).help_text)


class QueueForm(StyledModelForm):
    """A queue without its sub-queues, which are an inline."""

    instance: Queue
    server_url = ""
    """The URL of this server, for the example."""
    may_check = False
    """Whether the user may let the server access the repository."""

    # The version that the form was rendered from: `edit_queue` refuses to overwrite another user's changes.
    version = forms.CharField(required=False, widget=forms.HiddenInput)
    git_token = forms.ChoiceField(
        required=False,
        help_text="The vault entry with the token of a private https repository. Only entries declared as "
        "git tokens for its host are listed.",
        error_messages={"invalid_choice": "Must be vault://<vault>/<key> of an entry that is declared as a git token."},
    )
    check = PanelField("Check", "queues/admin/check.html")
    env_vars = EnvVarsField(label="Environment variables", required=False)
    replaces_at_once = forms.BooleanField(
        required=False,
        label="Replace at once",
        help_text="All workers replace processes with another environment at once. Otherwise some at a time do, each "
        "when its new process is ready.",
    )
    webhook_hosts = HostsField(label="Webhook hosts", required=False, help_text=_help_text("webhook_hosts"))
    vaults = RowsField(VaultRow, noun="vault", template="queues/admin/plain_row.html", help_text=_help_text("vaults"))
    input = RowsField(FieldRow, noun="field", template="queues/admin/field_row.html", help_text=_help_text("input"))
    example = PanelField("Example", "queues/admin/example.html")
    output = RowsField(FieldRow, noun="field", template="queues/admin/field_row.html", help_text=_help_text("output"))

    class Meta:
        model = Queue
        fields = ()
        field_classes = {name: SizeFormField for name in LIMIT_COLUMNS if name.endswith("_bytes")}
        labels = {
            "is_enabled": "Enabled",
            "git_url": "Repository",
            "code_path": "Folder",
            "startup_cmd": "Start command",
            "startup_timeout_s": "Start timeout (s)",
            "child_concurrency": "Tasks at once",
            "redis_storage": "Keep results",
            "hide_payloads": "Hide payloads",
            "max_retry": "Retries",
            "max_waiting_tasks": "Maximum waiting tasks",
            "max_payload_bytes": "Largest payload",
            "max_result_bytes": "Largest result",
            "max_memory_share": "Share of memory (%)",
            "active_timeout_s": "Active timeout",
            "pending_timeout_s": "Pending timeout",
            "ttl_completed_s": "Keep completed",
            "ttl_archived_s": "Keep archived",
            "retry_delay_s": "Retry delay",
            "retry_max_delay_s": "Longest retry delay",
        }

    def __init__(self, *args: Any, initial: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        row: Queue | None = kwargs.get("instance")
        self._is_known = row is not None and row.pk is not None
        given = dict(initial or {})
        original: Queue | None = given.pop("clone", None)
        if original is not None:
            given = forms.model_to_dict(original) | given
        source = row if row is not None and self._is_known else original
        self._rendered: QueueSpec | None = source.as_spec() if source else None
        if self._is_known and self._rendered:
            given["version"] = spec_version(self._rendered)
        super().__init__(*args, initial=given, **kwargs)
        if "name" in self.fields:
            self.fields["name"].disabled = self._is_known
        self._fill_rows()
        self._set_placeholders(default_limits())
        cast("PanelField", self.fields["check"]).widget.context["may_check"] = self.may_check
        cast("PanelField", self.fields["example"]).widget.context["example"] = self.current_example()

    def rows(self, name: str) -> RowsField:
        return cast("RowsField", self.fields[name])

    def current_example(self) -> dict[str, str]:
        """Return an example task for the current content of the form, without invalid rows. Empty if the queue has no
        name.
        """
        name = str((self["name"].value() if "name" in self.fields else self.data.get("name")) or "")
        if not name:
            return {"body": "", "curl": ""}
        schema, subs = (self._rendered.input, self._rendered.sub_queues) if self._rendered else ((), ())
        names = [sub.name for sub in subs]
        if self.is_bound:
            schema = tuple(row.to_field() for row in self.rows("input").rows.filled() if row.is_valid())
            names = _submitted_sub_queues(self.data)
        queue, payload = example_queue_name(name, names), example_payload(schema)
        return {"body": example_body(queue, payload), "curl": example_curl(self.server_url, queue, payload)}

    def describe_processes(self, workers: Sequence[WorkerRecord]) -> None:
        """Add to the help texts what a change costs on the workers of the queue, as far as they report it."""
        memory = max((worker.child_memory_bytes for worker in workers), default=0)
        if memory:
            text = f" A process of this queue uses {sizes.humanize(memory)}."
            self.fields["keep_previous"].help_text += text
        if len(workers) == 1 and workers[0].startup_s and self.instance.replace_first:
            took = durations.humanize(workers[0].startup_s)
            text = f" The only process ends before the next one starts: its last start took {took}."
            for name in ("env_vars", "replaces_at_once"):
                self.fields[name].help_text += text

    def clean_requirements_file(self) -> str:
        return self.cleaned_data["requirements_file"] or str(DEFAULTS["requirements_file"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        git_token, git_url = cleaned.get("git_token"), cleaned.get("git_url")
        if git_token and git_url and (message := find_git_token_error(git_token=git_token, git_url=git_url)):
            self.add_error("git_token", message)
        return cleaned

    def _fill_rows(self) -> None:
        vaults = list_references()
        columns = {name: self.initial.get(name) or [] for name in ROWS}
        names = {name: name for name in vaults}
        # A vault that no longer exists stays a choice: without it the row would show another one.
        names |= {name: f"{name} (missing)" for name in columns["vaults"] if name not in names}
        data = self.data if self.is_bound else None
        self.rows("vaults").fill(
            "vaults", data, [{"vault": name} for name in columns["vaults"]], vaults=[*names.items()]
        )
        for name in ("input", "output"):
            fields = getattr(self._rendered, name) if self._rendered else ()
            self.rows(name).fill(name, data, [{**field.to_json(), "default": field.default_json} for field in fields])
        choices = _token_choices(vaults, str(self.initial.get("git_token") or ""))
        self.fields["git_token"].choices = choices  # type: ignore[attr-defined]

    def _set_placeholders(self, defaults: Limits) -> None:
        for name in LIMIT_COLUMNS:
            if name in self.fields:
                self.fields[name].widget.attrs["placeholder"] = format_limit(name, getattr(defaults, name))


class DeletionForm(StyledForm):
    """The name of the queue, which the user enters as a confirmation."""

    confirmation = forms.CharField(
        label="Name of the queue",
        strip=True,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = name

    def clean_confirmation(self) -> str:
        entered: str = self.cleaned_data["confirmation"]
        if entered != self._name:
            raise forms.ValidationError(f"The name does not match. Enter {self._name} to delete the queue.")
        return entered


def _submitted_sub_queues(data: Mapping[str, Any]) -> list[str]:
    """Return the names in the inline of the sub-queues as they were submitted, valid or not."""
    total = str(data.get("sub_queues-TOTAL_FORMS", ""))
    prefixes = [f"sub_queues-{index}" for index in range(int(total) if total.isdigit() and len(total) < 5 else 0)]
    kept = [prefix for prefix in prefixes if not data.get(f"{prefix}-DELETE")]
    return [name for prefix in kept if (name := str(data.get(f"{prefix}-name", "")).strip())]


def _token_choices(
    vaults: Mapping[str, Sequence[ReferencedEntry]], current: str
) -> list[tuple[str, str | list[tuple[str, str]]]]:
    """Return the entries that are declared as git tokens, by vault, and always the current entry."""
    choices: list[tuple[str, str | list[tuple[str, str]]]] = [("", "None")]
    for vault, entries in vaults.items():
        declared = [entry for entry in entries if entry.usage.is_git_token or str(entry.reference) == current]
        if declared:
            choices.append((vault, [(str(entry.reference), _token_label(entry)) for entry in declared]))
    if current and current not in [str(entry.reference) for entries in vaults.values() for entry in entries]:
        choices.append(("Missing", [(current, current)]))
    return choices


def _token_label(entry: ReferencedEntry) -> str:
    return f"{entry.reference.key} ({', '.join(entry.git_hosts) or 'not declared as a git token'})"


FORM_FIELDS = {models.PositiveBigIntegerField: {"form_class": DurationFormField}}


def _others(columns: Sequence[str], *placed: str) -> tuple[str, ...]:
    # So that a new column of the model appears in the form.
    return tuple(column for column in columns if column not in placed)


FIELDSETS: tuple[tuple[str, dict[str, Any]], ...] = (
    (BASICS, {"fields": (*_BASICS, *_others(QUEUE_COLUMNS, *_BASICS, *_PAYLOAD))}),
    (
        "Deployment",
        {"fields": (*_REPOSITORY, *_others(DEPLOYMENT_COLUMNS, *_REPOSITORY, *_VAULTS), "replaces_at_once")},
    ),
    ("Vaults", {"fields": _VAULTS}),
    (
        "Limits",
        {
            "description": "Durations are written as 30, 10m, 24h or 1h30m; a plain number counts seconds. Sizes are "
            "written as 1048576, 1MiB or 64KiB. "
            "Empty: the server's default, which is shown in grey.",
            "fields": LIMIT_COLUMNS,
        },
    ),
    ("Payload", {"fields": _PAYLOAD}),
)

FOLDED_WHEN_ADDED = frozenset({"Limits"})
"""The section of a new queue that rarely differs from the server's defaults."""


_CELLS = {"name", "priority"}


class SubQueueForm(StyledModelForm):
    """A sub-queue. Empty new rows are ignored."""

    class Meta:
        model = SubQueue
        fields = ("name", "priority", "position")
        widgets = {"name": forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "position" in self.fields:
            self.fields["position"].required = False
        if self.instance.pk is None:
            self.initial["position"] = None
            for name in _CELLS & self.fields.keys():
                self.fields[name].required = False  # the page would mark the blank row, which may stay blank

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for name in sorted(_CELLS - self.errors.keys()):
            if cleaned.get(name) in (None, ""):
                self.add_error(name, self.fields[name].error_messages["required"])
        return cleaned

    def has_changed(self) -> bool:
        if self.instance.pk is not None:
            return super().has_changed()
        # A clone's rows are submitted as they were rendered: Django would take them for unchanged, and not save them.
        priority = SubQueue._meta.get_field("priority").default
        return bool(self["name"].data) or str(self["priority"].data or priority) != str(priority)


class SubQueueFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    def rows(self) -> "list[forms.ModelForm[Any]]":
        """Return the rows that remain, by position. Those without a position come last."""
        kept = [
            form
            for form in self.forms
            if form not in self.deleted_forms and (form.instance.pk is not None or form.has_changed())
        ]
        return sorted(kept, key=_position)


class SubQueueInline(RunqyTabularInline):
    """The sub-queues of a queue. Users who may change the queue may change them."""

    model = SubQueue
    form = SubQueueForm
    formset = SubQueueFormSet
    fields = ("name", "priority", "position")
    verbose_name, verbose_name_plural = "sub-queue", "Sub-queues"
    extra = 1
    rows_name = "sub_queues"
    ordering_field = "position"
    hide_ordering_field = True
    hide_title = True

    def get_extra(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> int:
        clone = None if obj else Queue.objects.filter(name=request.GET.get("clone", "")).first()
        return self.extra + (clone.sub_queues.count() if clone else 0)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("queues.view_queue") or request.user.has_perm("queues.change_queue")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("queues.change_queue" if obj else "queues.add_queue")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)


def read_sub_queues(formsets: Iterable[Any]) -> tuple[SubQueueSpec, ...]:
    return tuple(
        SubQueueSpec(name=form.instance.name, priority=form.instance.priority)
        for formset in formsets
        for form in formset.rows()
    )


def _position(form: "forms.ModelForm[Any]") -> tuple[bool, int]:
    position = form.cleaned_data.get("position")
    return (position is None, position or 0)
