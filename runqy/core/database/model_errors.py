"""The validation errors of a model's row, as operations report them."""

from collections.abc import Callable, Iterable

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import Model


def model_errors(
    row: Model,
    *,
    exclude: Iterable[str] = (),
    prefix: str = "",
    label: Callable[[str], str] = lambda name: name,
    validate_constraints: bool = True,
) -> list[str]:
    """Call `full_clean` and return its messages as `prefix.label: message`.

    Messages of constraints over several fields have no label. Each constraint costs queries: leave them out if `clean`
    checks the same rule and there are hundreds of rows.
    """
    try:
        row.full_clean(exclude=exclude, validate_unique=validate_constraints, validate_constraints=validate_constraints)
    except ValidationError as error:
        return [
            _format([prefix, "" if name == NON_FIELD_ERRORS else label(name)], message)
            for name, messages in error.message_dict.items()
            for message in messages
        ]
    return []


def _format(path: Iterable[str], message: str) -> str:
    return ": ".join(filter(None, (".".join(filter(None, path)), message)))
