"""Print what a command found or did: a table on a terminal, lines with tabs for programs, JSON, YAML or names."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import typer

from runqy.cli.values import clean, encode_json, format_value

Item = dict[str, Any]
AddColumns = Callable[[Item], Item]


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text at once. All output comes through here, so that control characters never reach a terminal.

    Colours do: values that are no output of a task are without them before, by `clean`.
    """
    typer.echo(clean(text, keeps_colours=True), err=err, nl=nl)  # noqa: TID251


class Format(StrEnum):
    """A format of the output that a user chose."""

    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    WIDE = "wide"


@dataclass(frozen=True, slots=True)
class Listing:
    """The columns of a list."""

    columns: tuple[str, ...]
    wide: tuple[str, ...] = ()
    """The columns that `-o wide` adds."""
    name: str = ""
    """The column that `-o name` prints; empty: the first."""
    empty: str = "Nothing found."
    """What a terminal shows of an empty list."""
    add_columns: AddColumns = lambda item: item
    """Returns columns that an item does not have, or has in another form."""


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints in the format that the user chose, or that suits standard output."""

    format: Format | None = None

    @property
    def is_wide(self) -> bool:
        return self.format is Format.WIDE

    @property
    def is_document(self) -> bool:
        """Whether the output is JSON or YAML, which nothing else may be mixed with."""
        return self.format in (Format.JSON, Format.YAML)

    @property
    def is_name(self) -> bool:
        return self.format is Format.NAME

    def rows(  # noqa: PLR0913 (all but the first two are optional or words for people)
        self,
        items: Sequence[Item],
        columns: Sequence[str],
        *,
        empty: str,
        wide: Sequence[str] = (),
        name: str = "",
        add_columns: AddColumns = lambda item: item,
    ) -> None:
        """Print a list. Documents contain the items as the server sent them.

        `wide` are the columns that `-o wide` adds; `name` is the one that `-o name` prints, by default the first.
        `add_columns` returns columns that an item does not have, or has in another form.
        """
        self.listing(Listing(tuple(columns), tuple(wide), name, empty, add_columns), items)

    def listing(self, listing: "Listing", items: Sequence[Item]) -> None:
        """Print a list."""
        if self.is_document:
            self.document(items)
        elif self.is_table:
            echo(self.table(listing, items), nl=False)
        else:
            for cells in self.cells(listing, items):
                echo("\t".join(cells))

    @property
    def is_table(self) -> bool:
        """Whether lists are tables."""
        return self.format in (None, Format.WIDE) and sys.stdout.isatty()

    def cells(self, listing: "Listing", items: Sequence[Item]) -> Iterator[tuple[str, ...]]:
        """Yield the columns of each item that the user chose, as text."""
        columns = self._columns(listing)
        for item in items:
            row = item | listing.add_columns(item)
            yield tuple(clean(format_value(row.get(column))) for column in columns)

    def table(self, listing: "Listing", items: Sequence[Item]) -> str:
        """Return a list as a table for the terminal."""
        if not items:
            return f"{listing.empty}\n"
        from runqy.cli.tables import render_table  # noqa: PLC0415 (rich is slow to import, and pipes do not need it)

        rows = [item | listing.add_columns(item) for item in items]
        return render_table(rows, self._columns(listing), is_wide=self.is_wide)

    def _columns(self, listing: "Listing") -> tuple[str, ...]:
        if self.format is Format.NAME:
            return (listing.name or listing.columns[0],)
        return (*listing.columns, *listing.wide) if self.is_wide else listing.columns

    def item(self, item: dict[str, Any], members: Sequence[str], *, name: str = "") -> None:
        """Print members of one object, a line each, without those that are empty. `-o name` prints `name`."""
        if self.is_document:
            self.document(item)
        elif self.format is Format.NAME:
            echo(clean(format_value(item.get(name or members[0]))))
        elif sys.stdout.isatty():
            from runqy.cli.tables import print_members  # noqa: PLC0415 (as above)

            print_members(item, members, is_wide=self.is_wide)
        else:
            for member in members:
                if item.get(member) not in (None, "", [], {}):
                    echo(f"{member}\t{_one_line(item[member])}")

    def result(self, response: dict[str, Any], text: str, *, name: str = "") -> None:
        """Print what a command did: the sentence `text`, the response as a document, or the name of the object."""
        if self.is_document:
            self.document(response)
        else:
            echo(clean(name if name and self.format is Format.NAME else text))

    def document(self, value: object) -> None:
        """Print a value as YAML if the user chose it, else as indented JSON."""
        if self.format is Format.YAML:
            from ruamel.yaml import YAML  # noqa: PLC0415 (slow to import)

            yaml = YAML()
            yaml.representer.add_representer(
                type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
            )
            yaml.representer.add_representer(
                msgspec.Raw, lambda dumper, raw: dumper.represent_scalar("tag:yaml.org,2002:int", bytes(raw).decode())
            )
            yaml.width = 120
            yaml.dump(value, sys.stdout)
        else:
            echo(encode_json(value, indent=2))

    def note(self, message: str) -> None:
        """Print a remark on standard error, where it does not disturb programs."""
        echo(f"runqy: {clean(message)}", err=True)


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else format_value(value)
    return clean(text.replace("\t", " "))
