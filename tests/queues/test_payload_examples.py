"""Examples of payloads that fit a schema."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queues.definitions import FieldType, PayloadField
from queues.payload_examples import curl_line, example_payload, example_queue, task_body
from queues.payload_schema import complete, fits


@pytest.mark.parametrize("kind", list(FieldType))
def test_a_field_without_default_gets_a_value_of_its_type(kind: FieldType) -> None:
    payload = example_payload([PayloadField(name="x", type=(kind,))])

    assert fits(json.dumps(json.loads(payload)["x"]).encode(), (kind,))


def test_defaults_stand_as_they_were_written_and_fields_keep_their_order() -> None:
    schema = [
        PayloadField(name="z", type=(FieldType.FLOAT,), default_json="1.50"),
        PayloadField(name="é", type=(FieldType.STRING,)),
    ]

    assert example_payload(schema) == '{"z": 1.50, "é": "text"}'


def test_a_queue_without_schema_has_an_example_too() -> None:
    assert json.loads(example_payload(()))


def test_a_shell_reads_the_payload_as_it_is() -> None:
    payload = '{"it\'s": "$HOME `id` \\\\"}'

    words = shlex.split(curl_line("https://runqy.example.com", "mail", payload))

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
    data = json.loads(task_body("mail", example_payload(schema)))["data"]

    complete(schema, {name: json.dumps(value).encode() for name, value in data.items()})


def test_an_example_names_a_queue_that_takes_tasks() -> None:
    names = [example_queue("mail", subs) for subs in ((), ("high", "low"), ("high", "default"))]

    assert names == ["mail", "mail.high", "mail"]
