"""Form fields of a queue: environment variables, rows of lists, and panels between fields."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from django import forms
from django.forms.formsets import DELETION_FIELD_NAME, ORDERING_FIELD_NAME
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from queues.definition_serializers import PayloadFieldSerializer
from queues.definitions import FieldType, PayloadField
from queues.payload_schema import TOO_DEEP
from queues.webhook_urls import normalize_hosts
from runqy.admin_site.base_admin import NEW_ROWS_MAX, StyledForm


class EnvVarsField(forms.CharField):
    def __init__(self, **options: Any) -> None:
        options.setdefault("strip", False)
        options.setdefault(
            "help_text",
            "One KEY=value per line. Quote a value to write line breaks as \\n. Secrets belong in vaults.",
        )
        attrs = {"rows": 4, "spellcheck": "false", "placeholder": "LOG_LEVEL=info"}
        super().__init__(widget=forms.Textarea(attrs=attrs), **options)

    def prepare_value(self, value: Any) -> Any:
        return format_env_vars(value) if isinstance(value, Mapping) else value

    def clean(self, value: Any) -> dict[str, str]:
        return parse_env_vars(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return parse_env_vars(str(data or "")) != (initial or {})
        except forms.ValidationError:
            return True


class HostsField(forms.CharField):
    """Hosts, separated by white space or commas."""

    def __init__(self, **options: Any) -> None:
        attrs = {"spellcheck": "false", "autocomplete": "off", "placeholder": "hooks.example.com"}
        super().__init__(widget=forms.TextInput(attrs=attrs), **options)

    def prepare_value(self, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        try:
            return normalize_hosts(super().clean(value).replace(",", " ").split())
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != (initial or [])
        except forms.ValidationError:
            return True


def parse_env_vars(text: str) -> dict[str, str]:
    """Return the variables in a text. A value in double quotes is a JSON string. Raise ValidationError."""
    variables: dict[str, str] = {}
    errors = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        name, mark, value = line.partition("=")
        name = name.strip()
        if not mark:
            errors.append(f"Line {number}: Must be KEY=value.")
        elif name in variables:
            errors.append(f"Line {number}: {name} is set on an earlier line.")
        else:
            variables[name] = _unquoted(value)
    if errors:
        raise forms.ValidationError(errors)
    return variables


def format_env_vars(variables: Mapping[str, str]) -> str:
    """Return variables as a text that `parse_env_vars` reads back."""
    return "\n".join(f"{name}={_quoted(value)}" for name, value in variables.items())


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _quoted(value: str) -> str:
    # Quoted if a line, or the browser's form, would change the value.
    needs_quotes = value != value.strip() or any(mark in value for mark in "\r\n\0") or _unquoted(value) != value
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value


class PanelWidget(forms.Widget):
    """Renders a template with the `context` that the form sets."""

    def __init__(self, template: str) -> None:
        super().__init__()
        self.template = template
        self.context: dict[str, Any] = {}

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        return render_to_string(self.template, self.context)

    def id_for_label(self, id_: str) -> str:
        return ""


class PanelField(forms.Field):
    """Content between the fields of a form, which is not submitted."""

    widget: PanelWidget

    def __init__(self, label: str, template: str) -> None:
        super().__init__(label=label, required=False, disabled=True, widget=PanelWidget(template))


_MARKS = (ORDERING_FIELD_NAME, DELETION_FIELD_NAME)


class Row(StyledForm):
    """One row. Empty rows are ignored."""

    content: tuple[str, ...] = ()
    """A row in which these cells are empty is ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"empty_permitted": True, "use_required_attribute": False})

    def has_changed(self) -> bool:
        return any(self[name].data not in (None, "", []) for name in self.content)

    def cells(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name not in _MARKS]

    def to_column(self) -> Any:
        """Return the item of the column. The row must be valid."""
        raise NotImplementedError


class VaultRow(Row):
    content = ("vault",)

    vault = forms.ChoiceField(
        error_messages={"invalid_choice": "No vault has this name.", "required": "Choose a vault, or remove the row."}
    )

    def __init__(self, *args: Any, vaults: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["vault"].choices = [("", "Choose a vault"), *vaults]  # type: ignore[attr-defined]

    def has_changed(self) -> bool:
        # A row with a position was added or had a vault; only the blank row for browsers without JavaScript has none.
        return super().has_changed() or bool(self[ORDERING_FIELD_NAME].data)

    def to_column(self) -> str:
        return str(self.cleaned_data["vault"])


class FieldRow(Row):
    content = ("name", "type", "default", "description")

    name = forms.CharField(strip=False)
    type = forms.MultipleChoiceField(
        choices=[(kind.value, kind.value) for kind in FieldType],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Select at least one type."},
    )
    required = forms.BooleanField(required=False)
    default = forms.CharField(required=False, help_text='JSON, for example 512, "text" or [1, 2]')
    description = forms.CharField(required=False, strip=False)

    def clean_default(self) -> Any:
        text = self.cleaned_data["default"]
        try:
            return msgspec.json.decode(text) if text else msgspec.UNSET
        except msgspec.DecodeError as error:
            raise forms.ValidationError('Must be JSON; put text in quotes, "like this".') from error
        except RecursionError as error:
            raise forms.ValidationError(TOO_DEEP) from error

    def clean(self) -> dict[str, Any]:
        """Validate the field with the serializer that reads queue files."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            serializer = PayloadFieldSerializer(data=self._members())
            for name, messages in (serializer.errors if not serializer.is_valid() else {}).items():
                self.add_error(name if name in self.fields else None, list(messages))
        return cleaned

    def to_field(self) -> PayloadField:
        return PayloadField.from_json(self._members())

    def to_column(self) -> dict[str, Any]:
        return self.to_field().to_json()

    def _members(self) -> dict[str, Any]:
        cells = ("name", "type", "required", "default", "description")
        return {name: value for name in cells if (value := self.cleaned_data[name]) is not msgspec.UNSET}


class RowSet(forms.BaseFormSet):  # type: ignore[type-arg]
    """The rows of one field."""

    def filled(self) -> list[Any]:
        """Return the rows that are neither empty nor removed, in order."""
        rows = [row for row in self.forms if row.has_changed() and not row[DELETION_FIELD_NAME].data]
        return sorted(rows, key=_position)

    def rendered(self) -> Iterator[Any]:
        yield from self.filled() if self.is_bound else self.initial_forms

    def blank(self) -> list[Any]:
        """Return the empty rows, which are for browsers without JavaScript."""
        return [] if self.is_bound else self.extra_forms


class RowsWidget(forms.Widget):
    """Renders the rows of a form, which the form sets."""

    rows: RowSet

    def __init__(self, template: str) -> None:
        super().__init__()
        self.template = template

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> RowSet:
        return self.rows

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        # The template adds an empty row, which JavaScript copies.
        context = {"rows": self.rows, "row_template": self.template, "name": name, "noun": self.attrs["noun"]}
        return render_to_string("queues/admin/rows.html", context)

    def id_for_label(self, id_: str) -> str:
        return ""


class RowsField(forms.Field):
    """A list of rows."""

    widget: RowsWidget
    rows: RowSet

    def __init__(self, row: type[Row], *, noun: str, template: str, **options: Any) -> None:
        super().__init__(required=False, widget=RowsWidget(template), **options)
        self.widget.attrs["noun"] = noun
        self._row = row

    def fill(self, name: str, data: Any, initial: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Bind the rows to submitted data, or set their initial values. Each row gets the `options`."""
        self._initial = list(initial)
        most = len(self._initial) + NEW_ROWS_MAX
        factory = forms.formset_factory(
            self._row, formset=RowSet, can_order=True, can_delete=True, extra=1, absolute_max=most, max_num=most
        )
        rows = factory(data, prefix=name, initial=self._initial, form_kwargs=options)
        self.rows = self.widget.rows = cast("RowSet", rows)

    def clean(self, value: RowSet) -> list[Any]:
        """Return the value of the column. Raise ValidationError if a row is invalid."""
        if not value.is_valid():
            raise forms.ValidationError([*value.non_form_errors(), "Correct the marked rows."])
        return [row.to_column() for row in value.filled()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare the rows with the initial ones, for Django's history."""
        return [_entered(row) for row in data.filled()] != [_plain(row) for row in self._initial]


def _position(row: Row) -> tuple[bool, int]:
    """Return the sort key of a row. Rows without a number come last."""
    text = str(row[ORDERING_FIELD_NAME].data or "")
    return (not text.isdigit(), int(text) if text.isdigit() else 0)


def _entered(row: Row) -> dict[str, Any]:
    return _plain({cell.name: cell.data for cell in row.cells()})


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a row as strings, without the empty ones."""
    return {
        name: [str(item) for item in value] if isinstance(value, list) else str(value)
        for name, value in row.items()
        if value not in (None, "", [], False)
    }
