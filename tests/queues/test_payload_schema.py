"""Payload schemas: validation, defaults and examples."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queues.definition_serializers import PayloadFieldSerializer
from queues.definitions import FieldType, PayloadField
from queues.payload_schema import (
    complete,
    example_body,
    example_curl,
    example_payload,
    example_queue_name,
    fits,
    payload_field_errors,
)
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
        with pytest.raises(PayloadInvalid, match=f"x: Must be {kind}, is "):
            complete([field("x", kind)], {"x": raw})


def test_a_field_may_be_of_several_types() -> None:
    schema = [field("x", "string", "int")]

    assert complete(schema, {"x": b'"a"'}) == complete(schema, {"x": b"1"}) == ()
    with pytest.raises(PayloadInvalid, match=r"x: Must be string or int, is float"):
        complete(schema, {"x": b"1.5"})


def test_all_errors_are_reported_with_their_fields() -> None:
    schema = [field("prompt", "string", required=True), field("width", "int"), field("steps", "int")]

    with pytest.raises(PayloadInvalid) as caught:
        complete(schema, {"width": b'"wide"', "steps": b"3"})

    assert caught.value.errors == ("prompt: This field is required.", "width: Must be int, is string.")


def test_missing_defaults_are_appended_in_the_order_of_the_schema() -> None:
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


@pytest.mark.parametrize("kind", list(FieldType))
def test_a_field_without_default_gets_a_value_of_its_type(kind: FieldType) -> None:
    payload = example_payload([PayloadField(name="x", type=(kind,))])

    assert fits(json.dumps(json.loads(payload)["x"]).encode(), (kind,))


def test_defaults_are_kept_verbatim_and_fields_in_order() -> None:
    schema = [
        PayloadField(name="z", type=(FieldType.FLOAT,), default_json="1.50"),
        PayloadField(name="é", type=(FieldType.STRING,)),
    ]

    assert example_payload(schema) == '{"z": 1.50, "é": "text"}'


def test_a_queue_without_schema_has_an_example_too() -> None:
    assert json.loads(example_payload(()))


def test_a_shell_reads_the_payload_unchanged() -> None:
    payload = '{"it\'s": "$HOME `id` \\\\"}'

    words = shlex.split(example_curl("https://runqy.example.com", "mail", payload))

    assert words[-1] == f'{{"queue": "mail", "data": {payload}}}'
    assert "https://runqy.example.com/queue/add" in words


fields = st.builds(
    PayloadField,
    name=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
    type=st.lists(st.sampled_from(FieldType), min_size=1, max_size=3, unique=True).map(tuple),
    required=st.booleans(),
)


@given(st.lists(fields, max_size=4, unique_by=lambda field: field.name))
def test_an_example_fits_its_schema(schema: list[PayloadField]) -> None:
    data = json.loads(example_body("mail", example_payload(schema)))["data"]

    complete(schema, {name: json.dumps(value).encode() for name, value in data.items()})


def test_an_example_names_a_queue_that_accepts_tasks() -> None:
    names = [example_queue_name("mail", subs) for subs in ((), ("high", "low"), ("high", "default"))]

    assert names == ["mail", "mail.high", "mail"]


@pytest.mark.parametrize(("depth", "is_refused"), [(32, False), (33, True), (5000, True)])
def test_a_default_is_nested_to_a_limit(depth: int, is_refused: bool) -> None:
    default: object = []
    for _ in range(depth - 1):
        default = {"a": default} if depth % 2 else [default]
    serializer = PayloadFieldSerializer(data={"name": "x", "type": ["array", "object"], "default": default})

    assert serializer.is_valid() != is_refused
    if is_refused:
        assert serializer.errors == {"default": ["Must not be nested deeper than 32 levels."]}


@pytest.mark.parametrize(
    ("one", "member"),
    [
        (field("a\0b", "string"), "name"),
        (field("x", "string", description="a\0b"), "name"),
        (field("x", "array", default_json='["a\\u0000b"]'), "default"),
        (field("x", "object", default_json='{"a\\u0000b": 1}'), "default"),
    ],
)
def test_a_null_character_is_reported_at_the_member_that_has_it(one: PayloadField, member: str) -> None:
    assert list(payload_field_errors(one)) == [(member, "Null characters are not allowed.")]
