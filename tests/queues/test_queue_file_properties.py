"""Properties of all queue files and specifications."""

import io
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from queues.definition_serializers import QueueDefinitionSerializer, parse_queue
from queues.definitions import FieldType, PayloadField, QueueMode
from queues.queue_files import parse_queue_file
from runqy.errors import QueueInvalid


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    parse_queue_file(raw, file="q.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_no_structure_crashes_the_parser(written: object) -> None:
    for candidate in (written, {"priority": 1, "deployment": written}, {"deployment": {"git_url": written}}):
        with pytest.raises(QueueInvalid):
            parse_queue("a", candidate)


names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
plain_text = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=20)
sub_queues = st.fixed_dictionaries({"name": names, "priority": st.integers(1, 99)})
fields = st.fixed_dictionaries(
    {"name": plain_text.filter(bool), "type": st.just(["string"]), "default": plain_text},
)
written_queues = st.fixed_dictionaries(
    {
        "priority": st.integers(1, 1000),
        "deployment": st.fixed_dictionaries(
            {"git_url": st.just("https://h/r.git"), "startup_cmd": names},
            optional={
                "env_vars": st.dictionaries(names.map("V_{}".format), plain_text, max_size=3),
                "vaults": st.lists(names, unique=True, max_size=3),
                "redis_storage": st.booleans(),
                "limits": st.dictionaries(st.sampled_from(["max_retry", "retry_delay"]), st.integers(0, 999)),
            },
        ),
    },
    optional={
        "mode": st.sampled_from([mode.value for mode in QueueMode]),
        "sub_queues": st.lists(sub_queues, unique_by=lambda sub: sub["name"], max_size=3),
        "input": st.lists(fields, unique_by=lambda field: field["name"], max_size=3),
    },
)


@given(st.dictionaries(names, written_queues, max_size=1))
def test_a_file_equals_the_structure_that_it_contains(queues: dict) -> None:
    text = io.BytesIO()
    YAML().dump({"queues": queues}, text)

    found = parse_queue_file(text.getvalue(), file="q.yaml")

    assert not found.errors, text.getvalue()
    assert list(found.specs) == [parse_queue(name, written) for name, written in queues.items()]
    for spec in found.specs:
        assert type(spec).decode(spec.encode()) == spec


default_values = st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.lists(st.integers(), max_size=2))


@given(st.text(min_size=1, max_size=5), st.booleans(), st.none() | default_values)
def test_a_payload_schema_survives_a_round_trip(name: str, required: bool, default: object) -> None:
    default_json = None if default is None else msgspec.json.encode(default).decode()
    schema = (PayloadField(name=name, type=tuple(FieldType), required=required, default_json=default_json),)

    assert tuple(PayloadField.from_json(field.to_json()) for field in schema) == schema


@given(written_queues)
def test_a_specification_survives_a_round_trip(written: dict) -> None:
    spec = parse_queue("inference", written)

    assert parse_queue("inference", QueueDefinitionSerializer(spec).data) == spec
