"""The form of a queue, checked by the rules of queue files and in their words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from django import forms

from queues.admin.fields import SPANS, QueueFields
from queues.admin.panels import PanelField
from queues.admin.problems import place_of
from queues.admin.rows import Row, RowsField
from queues.admin.variables import VariablesInvalid, parse_variables, write_variables
from queues.config import read_spec
from queues.definitions import COUNTED_LIMITS, Deployment, Limits, PayloadField, QueueSpec
from queues.models import Queue
from queues.operations import spec_version
from queues.payload_examples import curl_line, example_payload, example_queue, task_body
from queues.payload_schema import fits
from queues.queries import default_limits
from queues.validation import Problem
from queues.written import parse_fields, write_spec
from runqy import durations
from runqy.errors import QueueInvalid
from runqy.staff.pages import StaffModelForm
from vaults.references import ReferencedEntry, find_git_token_problem, list_references

__all__ = ["QueueForm", "shown_values"]

ROWS = ("sub_queues", "vaults", "input", "output")
_UNDER_DEPLOYMENT = ("git_url", "code_path", "startup_cmd", "env_vars", "redis_storage", "git_token")
_DEFAULTS: Mapping[str, Any] = {
    "branch": Deployment.__dataclass_fields__["branch"].default,
    "startup_timeout_secs": Deployment.__dataclass_fields__["startup_timeout_s"].default,
    "requirements_file": Deployment.__dataclass_fields__["requirements_file"].default,
}
"""What an empty field means."""

_PLACEHOLDERS = {"git_url": "https://h/r", "startup_cmd": "x"}
"""Stand in for fields that are wrong already, so that the rest is checked too."""


class QueueForm(QueueFields, StaffModelForm):
    """A queue with its sub-queues."""

    instance: Queue
    spec: QueueSpec
    origin = ""
    """Of this server, for the example."""
    may_check = False
    """Whether whoever fills the form may let the server look at the repository."""

    class Meta:
        model = Queue
        fields = ()

    def __init__(self, *args: Any, initial: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Show a queue as it is, the content of another one (`initial["clone"]`), or what is so without a word."""
        row: Queue | None = kwargs.get("instance")
        self._is_known = row is not None and row.pk is not None
        given = dict(initial or {})
        shown: QueueSpec | None = given.pop("clone", None)
        if row is not None and self._is_known:
            shown = row.as_spec()
        first = (shown_values(shown) if shown else {}) | given
        if shown and self._is_known:
            first["version"] = spec_version(shown)
        super().__init__(*args, initial=first, **kwargs)
        self._shown = shown
        self.fields["name"].disabled = self._is_known
        self._fill_rows(first)
        self._show_defaults(default_limits())
        cast("PanelField", self.fields["check"]).widget.context["may_check"] = self.may_check
        cast("PanelField", self.fields["example"]).widget.context["example"] = self.current_example()

    def rows(self, name: str) -> RowsField:
        """Return a field of rows."""
        return cast("RowsField", self.fields[name])

    def current_example(self) -> dict[str, str]:
        """Return a task that the queue would take as far as the form is right; rows with mistakes are left out."""
        name = str(self["name"].value() or "") or "my-queue"
        schema, subs = (self._shown.input, self._shown.sub_queues) if self._shown else ((), ())
        names = [sub.name for sub in subs]
        if self.is_bound:
            found = [_payload_field(row) for row in self.rows("input").rows.there()]
            schema = tuple(field for field in found if field)
            names = [row.cleaned_data["name"] for row in self.rows("sub_queues").rows.there() if row.is_valid()]
        queue, payload = example_queue(name, names), example_payload(schema)
        return {"body": task_body(queue, payload), "curl": curl_line(self.origin, queue, payload)}

    def clean_env_vars(self) -> dict[str, str]:
        """Return the variables that are written in lines."""
        try:
            return parse_variables(self.cleaned_data["env_vars"])
        except VariablesInvalid as error:
            raise forms.ValidationError(error.sentences) from error

    def clean(self) -> dict[str, Any]:
        """Turn the fields into a specification, or put each problem beside its field."""
        cleaned = super().clean() or self.cleaned_data
        known = frozenset(self.errors)
        self._right = {name: [row for row in self.rows(name).rows.there() if row.is_valid()] for name in ROWS}
        spec, problems = read_spec(cleaned.get("name") or "unnamed", self._written(cleaned))
        for problem in problems:
            self._show(problem, known)
        if spec is not None and not self.has_error("git_token") and not self.has_error("git_url"):
            deployment = spec.deployment
            refusal = find_git_token_problem(git_token=deployment.git_token, git_url=deployment.git_url)
            if refusal:
                self.add_error("git_token", refusal)
        if spec is not None and not self.errors:
            self.spec = replace(spec, is_enabled=cleaned["is_enabled"])
        return cleaned

    def _post_clean(self) -> None:
        """Leave what is beyond a specification to the operation, whose words are those of API and files."""
        if not self.errors:
            self.instance.take_from(self.spec)

    def _written(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        """Return the fields as a queue file spells them, with something harmless for those that are wrong."""
        values = _PLACEHOLDERS | {name: value for name, value in cleaned.items() if value not in ("", None)}
        deployment = {name: values[name] for name in _UNDER_DEPLOYMENT if name in values}
        deployment |= {name: values.get(name, default) for name, default in _DEFAULTS.items()}
        deployment["limits"] = {name: values[name] for name in (*COUNTED_LIMITS, *SPANS) if name in values}
        deployment["vaults"] = [row["vault"] for row in self._right_rows("vaults")]
        written = {name: values[name] for name in ("priority", "mode", "order") if name in values}
        written |= {name: self._right_rows(name) for name in ROWS if name != "vaults"}
        return written | {"deployment": deployment}

    def _right_rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows in which no cell is wrong by itself."""
        return [row.written() for row in self._right[name]]

    def _show(self, problem: Problem, known: frozenset[str]) -> None:
        """Put a problem beside its field, unless that was wrong before the rules were asked."""
        place = place_of(problem)
        if place.field is not None and place.row is not None:
            row = self._right[place.field][place.row]
            row.add_error(place.cell if place.cell in row.fields else None, problem.reason)
            if not self.has_error(place.field):
                self.add_error(place.field, "See the marked rows.")
        elif place.field not in known:
            self.add_error(place.field if place.field in self.fields else None, f"{place.prefix}{problem.reason}")

    def _fill_rows(self, first: Mapping[str, Any]) -> None:
        """Make the rows, and the choices that depend on what vaults there are."""
        vaults = list_references()
        names = {name: name for name in vaults}
        names |= {
            row["vault"]: f"{row['vault']} (missing)" for row in first.get("vaults", ()) if row["vault"] not in names
        }
        data = self.data if self.is_bound else None
        for name in ROWS:
            options = {"vaults": tuple(names.items())} if name == "vaults" else {}
            self.rows(name).fill(name, data, first.get(name, ()), **options)
        self.fields["git_token"].choices = _token_choices(vaults, first.get("git_token", ""))  # type: ignore[attr-defined]

    def _show_defaults(self, limits: Limits) -> None:
        """Show in each limit what counts when it is left empty."""
        for name in COUNTED_LIMITS:
            self.fields[name].widget.attrs["placeholder"] = str(getattr(limits, name))
        for name in SPANS:
            self.fields[name].widget.attrs["placeholder"] = durations.write_s(getattr(limits, f"{name}_s"))


def _token_choices(
    vaults: Mapping[str, Sequence[ReferencedEntry]], current: str
) -> list[tuple[str, str | list[tuple[str, str]]]]:
    """Return the entries that are declared as git tokens, by vault, and what a queue has now, whatever that is."""
    choices: list[tuple[str, str | list[tuple[str, str]]]] = [("", "None")]
    for vault, entries in vaults.items():
        declared = [entry for entry in entries if entry.usage.is_git_token or str(entry.reference) == current]
        if declared:
            choices.append((vault, [(str(entry.reference), _token_label(entry)) for entry in declared]))
    if current and current not in [str(entry.reference) for entries in vaults.values() for entry in entries]:
        choices.append(("Missing", [(current, current)]))
    return choices


def _token_label(entry: ReferencedEntry) -> str:
    """Return an entry's key, and where it may be sent."""
    return f"{entry.reference.key} ({', '.join(entry.git_hosts) or 'not declared as a git token'})"


def shown_values(spec: QueueSpec) -> dict[str, Any]:
    """Return what the fields show of a specification."""
    written = write_spec(spec)
    deployment = written.pop("deployment")
    limits = {
        name: value if name in COUNTED_LIMITS else durations.write_s(value)
        for name, value in deployment["limits"].items()
    }
    shown = {**deployment, **written, **limits, "name": spec.name, "is_enabled": spec.is_enabled}
    shown["env_vars"] = write_variables(spec.deployment.env_vars)
    shown["vaults"] = [{"vault": name} for name in spec.deployment.vaults]
    for which in ("input", "output"):
        shown[which] = [_shown_field(field) for field in getattr(spec, which)]
    return shown


def _shown_field(field: PayloadField) -> dict[str, Any]:
    """Return what a row shows of a payload field."""
    types = [kind.value for kind in field.type]
    shown = {"name": field.name, "type": types, "required": field.required, "description": field.description}
    return shown | {"default": field.default_json or ""}


def _payload_field(row: Row) -> PayloadField | None:
    """Return the payload field in a row; None where it is wrong."""
    if not row.is_valid():
        return None
    try:
        field = parse_fields([row.written()])[0]
    except QueueInvalid:
        return None
    return field if field.default_json is None or fits(field.default_json.encode(), field.type) else None
