"""Exported queues, loaded again."""

import math
from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from queues.definition_serializers import parse_queue
from queues.definitions import FieldType, LimitOverrides, PayloadField
from queues.queue_files import parse_queue_file, write_queue_file
from tests.queues.samples import spec
from tests.queues.test_operations import RICH
from tests.queues.test_queue_file_properties import json_values, written_queues

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
env_vars = st.dictionaries(st.sampled_from("ABCDEF"), texts, max_size=4)
spans = st.none() | st.integers(1, 10**8)
limits = st.builds(LimitOverrides, max_retry=st.none() | st.integers(0, 9), active_timeout_s=spans, retry_delay_s=spans)
all_types = tuple(FieldType)


def is_kept(value: object) -> bool:
    """Return whether a database and JSON can store a default."""
    text = msgspec.json.encode(value).decode()
    return "\\u0000" not in text and value is not None and not (isinstance(value, float) and math.isinf(value))


defaults = json_values.filter(is_kept).map(lambda value: msgspec.json.encode(value).decode())
fields = st.builds(PayloadField, name=texts.filter(bool), type=st.just(all_types), default_json=defaults)


@given(written_queues, env_vars, limits, fields)
def test_an_exported_queue_loads_to_the_same(written, variables, stated, field) -> None:
    one = parse_queue("mail", written)
    one = replace(one, deployment=replace(one.deployment, env_vars=variables), limits=stated, output=(field,))

    found = parse_queue_file(write_queue_file([one]), file="q.yaml")

    assert not found.errors
    assert found.specs == (one,)


def test_several_queues_are_written_to_one_file() -> None:
    found = parse_queue_file(write_queue_file([RICH, spec("mail")]), file="q.yaml")

    assert found.specs == (RICH, spec("mail"))


def test_defaults_are_not_written() -> None:
    limits = LimitOverrides(ttl_completed_s=5400, pending_timeout_s=0, max_payload_bytes=1 << 20, max_result_bytes=3000)
    text = write_queue_file([spec("mail", limits=limits)]).decode()

    assert text.splitlines() == [
        "queues:",
        "  mail:",
        "    priority: 5",
        "    mode: long_running",
        "    deployment:",
        "      git_url: https://github.com/example/repo.git",
        "      startup_cmd: python main.py",
        "      limits:",
        "        ttl_completed: 1h30m",
        "        pending_timeout: 0",
        "        max_payload_bytes: 1MiB",
        "        max_result_bytes: 3000",
    ]


def test_strings_that_yaml_1_1_reads_as_booleans_are_quoted() -> None:
    one = spec("mail", input=(PayloadField(name="on", type=(FieldType.STRING,), default_json='"No"'),))

    text = write_queue_file([one]).decode()

    assert "name: 'on'" in text
    assert "default: 'No'" in text
