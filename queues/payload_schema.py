"""Checks payloads against a queue's schema without touching a byte of what the client sent."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, DecimalException

from queues.definitions import FieldType, PayloadField
from runqy.errors import PayloadInvalid

_TYPE_BY_FIRST_BYTE = {
    ord('"'): FieldType.STRING,
    ord("{"): FieldType.OBJECT,
    ord("["): FieldType.ARRAY,
    ord("t"): FieldType.BOOL,
    ord("f"): FieldType.BOOL,
}


def complete(schema: Sequence[PayloadField], members: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """Check the members of a payload, raw JSON by name, and return the defaults to append to it.

    Fields that the schema does not know pass. Raises PayloadInvalid, whose `errors` name each field that is wrong.
    """
    errors = tuple(_errors(schema, members))
    if errors:
        raise PayloadInvalid(errors=errors)
    return tuple(
        (field.name, field.default_json.encode())
        for field in schema
        if field.default_json is not None and field.name not in members
    )


def fits(raw: bytes, types: Sequence[FieldType]) -> bool:
    """Tell whether a JSON value, without blanks before it, is of one of the types."""
    kind = _TYPE_BY_FIRST_BYTE.get(raw[0])
    if kind is not None:
        return kind in types
    if raw[0] == ord("n"):
        return False
    return FieldType.FLOAT in types or (FieldType.INT in types and _is_integral(raw))


def _errors(schema: Sequence[PayloadField], members: Mapping[str, bytes]) -> Iterator[str]:
    """Give a sentence for each field that is missing or of another type."""
    for field in schema:
        raw = members.get(field.name)
        if raw is None:
            if field.required:
                yield f"{field.name}: is required"
        elif not fits(raw, field.type):
            yield f"{field.name}: must be {' or '.join(field.type)}, is {_describe(raw)}"


def _is_integral(raw: bytes) -> bool:
    """Tell whether a JSON number is whole, however it is spelled: 3, 3.0 and 3e2 are."""
    if raw.isdigit():
        return True
    try:
        number = Decimal(raw.decode("ascii"))
    except (DecimalException, UnicodeDecodeError):
        return False
    return number == number.to_integral_value()


def _describe(raw: bytes) -> str:
    """Name the type of a JSON value."""
    if raw[0] == ord("n"):
        return "null"
    kind = _TYPE_BY_FIRST_BYTE.get(raw[0])
    return kind or ("int" if _is_integral(raw) else "float")
