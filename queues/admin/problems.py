"""Finds the field of the form that a problem of a queue's specification is about."""

from dataclasses import dataclass

from queues.validation import Problem

__all__ = ["Place", "place_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A field of the form, or one of its rows and there a cell."""

    field: str | None
    """None: the form as a whole."""
    row: int | None = None
    cell: str = ""
    prefix: str = ""
    """What the message begins with, where the field holds several things."""


def place_of(problem: Problem) -> Place:
    """Return where people look for what a problem is about."""
    match problem.path:
        case ("deployment", "limits", str(limit)):
            place = Place(field=limit)
        case ("deployment", "vaults", int(index)):
            place = Place(field="vaults", row=index, cell="vault")
        case ("deployment", "env_vars", str(name), *_):
            place = Place(field="env_vars", prefix=f"{name}: ")
        case ("deployment", str(name), *_):
            place = Place(field=name)
        case (str(rows), int(index), *cells):
            place = Place(field=rows, row=index, cell=str(cells[0]) if cells else "name")
        case (str(name), *_):
            place = Place(field=name)
        case _:
            place = Place(field="priority" if problem.reason.startswith("`priority`") else None)
    return place
