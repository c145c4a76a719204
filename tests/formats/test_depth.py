"""JSON is nested to a limit that is the same on each version of Python."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.core.formats.json_decoding import MAX_DEPTH, check_depth, read_json

LEAVES = st.one_of(st.text('[]{}"\\ a', max_size=6), st.integers(0, 1))


def depth_of(value: object) -> int:
    """Return how many lists and objects are within each other."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def is_accepted(content: bytes) -> bool:
    try:
        check_depth(content)
    except RecursionError:
        return False
    return True


@given(
    value=st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text('[}"\\'), inner), max_leaves=40),
    around=st.integers(MAX_DEPTH - 8, MAX_DEPTH),
    after=st.lists(LEAVES, max_size=3),
)
def test_depth_is_counted_whatever_texts_contain(value: object, around: int, after: list[object]) -> None:
    nested = value
    for number in range(around):
        nested = [nested, *after] if number % 2 else {'["}': nested}

    assert is_accepted(json.dumps(nested).encode()) == (depth_of(value) + around <= MAX_DEPTH)


@pytest.mark.parametrize("opened", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_value_nested_beyond_the_limit_is_named(opened: bytes, is_closed: bool) -> None:
    content = opened * 100_000 + b"1" + (opened.translate(bytes.maketrans(b"[{", b"]}"), b'"a:')[::-1] * 100_000)

    with pytest.raises(RecursionError, match="nested deeper than 500 levels"):
        read_json(content if is_closed else content[:-1], msgspec.Raw)


def test_a_wide_value_is_accepted() -> None:
    assert is_accepted(json.dumps([{"a": [1, {}], "b": "[" * 600}] * 10_000).encode())
