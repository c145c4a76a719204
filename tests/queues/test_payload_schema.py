"""What a payload schema lets pass, refuses and appends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queues.definitions import FieldType, PayloadField
from queues.payload_schema import complete
from runqy.errors import PayloadInvalid


def field(name: str = "x", *types: str, **changes) -> PayloadField:
    return PayloadField(name=name, type=tuple(FieldType(kind) for kind in types), **changes)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", [b'"a"', b'""'], [b"1", b"null", b"{}"]),
        ("int", [b"1", b"-7", b"3.0", b"2e2", b"9007199254740993"], [b"1.5", b'"1"', b"true", b"1e-2", b"null"]),
        ("float", [b"1.5", b"1", b"-0.0", b"1e400"], [b'"1.5"', b"[]", b"null"]),
        ("bool", [b"true", b"false"], [b"0", b'"true"', b"null"]),
        ("array", [b"[]", b"[1]"], [b"{}", b'"[]"']),
        ("object", [b"{}"], [b"[]", b"1"]),
    ],
)
def test_a_value_must_be_of_its_fields_type(kind: str, good: list[bytes], bad: list[bytes]) -> None:
    for raw in good:
        assert complete([field("x", kind)], {"x": raw}) == ()
    for raw in bad:
        with pytest.raises(PayloadInvalid, match=f"x: must be {kind}, is "):
            complete([field("x", kind)], {"x": raw})


def test_a_field_may_be_of_several_types() -> None:
    schema = [field("x", "string", "int")]

    assert complete(schema, {"x": b'"a"'}) == complete(schema, {"x": b"1"}) == ()
    with pytest.raises(PayloadInvalid, match=r"x: must be string or int, is float"):
        complete(schema, {"x": b"1.5"})


def test_all_errors_are_told_at_once_each_with_its_field() -> None:
    schema = [field("prompt", "string", required=True), field("width", "int"), field("steps", "int")]

    with pytest.raises(PayloadInvalid) as caught:
        complete(schema, {"width": b'"wide"', "steps": b"3"})

    assert caught.value.errors == ("prompt: is required", "width: must be int, is string")


def test_only_missing_defaults_are_appended_in_the_order_of_the_schema() -> None:
    schema = [field(name, "int", default_json=value) for name, value in (("c", "1"), ("b", "2e0"), ("a", "3"))]

    assert complete(schema, {"b": b"7", "unknown": b"null"}) == (("c", b"1"), ("a", b"3"))


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_integral_numbers_are_ints_and_all_numbers_are_floats(number: float) -> None:
    raw = json.dumps(number).encode()

    assert complete([field("x", "float")], {"x": raw}) == ()
    if number == int(number):
        assert complete([field("x", "int")], {"x": raw}) == ()
    else:
        with pytest.raises(PayloadInvalid):
            complete([field("x", "int")], {"x": raw})
