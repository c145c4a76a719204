"""Rows within the form of a queue: sub-queues, vaults and the fields of payload schemas, each in their order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from django import forms
from django.forms.formsets import DELETION_FIELD_NAME, ORDERING_FIELD_NAME
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from queues.definitions import FieldType
from runqy.staff.pages import StaffForm

_MARKS = (ORDERING_FIELD_NAME, DELETION_FIELD_NAME)
MOST_ROWS = 1000


class Row(StaffForm):
    """One row; one in which nothing is entered is not there."""

    content: tuple[str, ...] = ()
    """The cells that make a row one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Let every row be left empty, those that had content before too."""
        super().__init__(*args, **kwargs | {"empty_permitted": True, "use_required_attribute": False})

    def has_changed(self) -> bool:
        """Tell whether there is a row at all: whatever its place, only content counts."""
        return any(self[name].data not in (None, "", []) for name in self.content)

    def cells(self) -> list[forms.BoundField]:
        """Return what people fill in."""
        return [self[name] for name in self.fields if name not in _MARKS]

    def written(self) -> dict[str, Any]:
        """Return the row as a queue file spells it."""
        return {name: value for name, value in self.cleaned_data.items() if name not in _MARKS}


class SubQueueRow(Row):
    """A sub-queue."""

    content = ("name", "priority")

    name = forms.CharField(error_messages={"required": "`name` is missing"})
    priority = forms.IntegerField(error_messages={"required": "`priority` is missing"})


class VaultRow(Row):
    """A vault whose entries become environment variables."""

    content = ("vault",)

    vault = forms.ChoiceField(error_messages={"invalid_choice": "there is no vault of this name"})

    def __init__(self, *args: Any, vaults: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        """Take the vaults to choose from: names and what is shown."""
        super().__init__(*args, **kwargs)
        self.fields["vault"].choices = [("", "Choose a vault"), *vaults]  # type: ignore[attr-defined]


class FieldRow(Row):
    """A field of a payload schema."""

    content = ("name", "type", "default", "description")

    name = forms.CharField(strip=False, error_messages={"required": "`name` is missing"})
    type = forms.MultipleChoiceField(
        choices=[(kind.value, kind.value) for kind in FieldType],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "a field has at least one type"},
    )
    required = forms.BooleanField(required=False)
    default = forms.CharField(required=False, help_text='As JSON: 512, "text", [1, 2]')
    description = forms.CharField(required=False, strip=False)

    def clean_default(self) -> Any:
        """Return the value that is written as JSON; nothing written is no default."""
        text = self.cleaned_data["default"]
        try:
            return msgspec.json.decode(text) if text else msgspec.UNSET
        except msgspec.DecodeError as error:
            raise forms.ValidationError('it is not JSON; a text stands in quotes, "like this"') from error

    def written(self) -> dict[str, Any]:
        """Return the field as a queue file spells it."""
        return {name: value for name, value in super().written().items() if value is not msgspec.UNSET}


class RowSet(forms.BaseFormSet):  # type: ignore[type-arg]
    """All rows of one kind."""

    def there(self) -> list[Any]:
        """Return the rows that are there, in their order, without those taken away."""
        rows = [row for row in self.forms if row.has_changed() and not row[DELETION_FIELD_NAME].data]
        return sorted(rows, key=_place)

    def shown(self) -> Iterator[Any]:
        """Give the rows as they are to be seen again: filled ones in their order."""
        yield from self.there() if self.is_bound else self.initial_forms

    def blank(self) -> list[Any]:
        """Return the empty rows, for people whose browser runs no scripts."""
        return [] if self.is_bound else self.extra_forms


class RowsWidget(forms.Widget):
    """Shows the rows of a form within a form; the form that owns it gives it its rows."""

    rows: RowSet

    def __init__(self, template: str) -> None:
        """Take the template of one row."""
        super().__init__()
        self.template = template

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> RowSet:
        """Return the rows."""
        return self.rows

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """Return the rows, and an empty one for scripts to copy."""
        context = {"rows": self.rows, "row_template": self.template, "name": name, "noun": self.attrs["noun"]}
        return render_to_string("queues/admin/rows.html", context)

    def id_for_label(self, id_: str) -> str:
        """Leave the label without a field of its own."""
        return ""


class RowsField(forms.Field):
    """A list of rows."""

    widget: RowsWidget
    rows: RowSet

    def __init__(self, row: type[Row], *, noun: str, template: str, **options: Any) -> None:
        """Take what one row is."""
        super().__init__(required=False, widget=RowsWidget(template), **options)
        self.widget.attrs["noun"] = noun
        self._factory = forms.formset_factory(
            row, formset=RowSet, can_order=True, can_delete=True, extra=1, absolute_max=MOST_ROWS, max_num=MOST_ROWS
        )

    def fill(self, name: str, data: Any, initial: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Make the rows out of what was sent, or as they are at first; `options` are for each row."""
        self._initial = list(initial)
        rows = self._factory(data, prefix=name, initial=self._initial, form_kwargs=options)
        self.rows = self.widget.rows = cast("RowSet", rows)

    def clean(self, value: RowSet) -> list[dict[str, Any]]:
        """Return the rows as a queue file spells them. Raises ValidationError when one of them is wrong."""
        if not value.is_valid():
            raise forms.ValidationError([*value.non_form_errors(), "See the marked rows."])
        return [row.written() for row in value.there()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Tell whether other rows are there than at first, for the history."""
        return [_said(row) for row in data.there()] != [_plain(row) for row in self._initial]


def _place(row: Row) -> tuple[bool, int]:
    """Return where a row goes; one without a number comes last."""
    text = str(row[ORDERING_FIELD_NAME].data or "")
    return (not text.isdigit(), int(text) if text.isdigit() else 0)


def _said(row: Row) -> dict[str, Any]:
    """Return what was entered in a row."""
    return _plain({cell.name: cell.data for cell in row.cells()})


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's content as texts, without what is empty."""
    return {
        name: [str(item) for item in value] if isinstance(value, list) else str(value)
        for name, value in row.items()
        if value not in (None, "", [], False)
    }
