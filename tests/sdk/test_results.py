"""Results as JSON, and the path of what cannot be encoded."""

import datetime as dt
import decimal
import json
import uuid
from typing import Any

import numpy as np
import pytest

from runqy_sdk.errors import ResultInvalid
from runqy_sdk.results import MAX_ARRAY_ITEMS, encode_result


class Model:
    pass


def cyclic() -> list[Any]:
    items: list[Any] = []
    items.append({"again": items})
    return items


def nested(depth: int) -> list[Any]:
    items: list[Any] = []
    for _ in range(depth):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), '"2026-01-02T03:04:00+00:00"'),
        (dt.date(2026, 1, 2), '"2026-01-02"'),
        (dt.time(3, 4), '"03:04:00"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (decimal.Decimal("1.10"), '"1.10"'),
        (b"\xff\x00", '"/wA="'),
        (np.float32(0.5), "0.5"),
        (np.int64(2**60), str(2**60)),
        (np.bool_(True), "true"),
        (np.array([[1, 2], [3, 4]], dtype=np.uint8), "[[1,2],[3,4]]"),
        (np.datetime64("2026-01-02"), '"2026-01-02"'),
        ({"a": (1, None), 2: "é"}, '{"a":[1,null],"2":"\\u00e9"}'),
    ],
)
def test_common_types_are_encoded(value: object, text: str) -> None:
    assert encode_result(value) == text
    assert json.loads(encode_result({"deep": [value]})) == {"deep": [json.loads(text)]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"scores": [1, 2, 3, {4}]}, "result.scores[3]: set is not JSON; return numbers, texts, lists and dicts"),
        ({"a b": {"c": Model()}}, f"result['a b'].c: {__name__}.Model is not JSON; return numbers, texts, lists"),
        ([1, float("nan")], "result[1]: nan is not JSON; return None or a text instead"),
        ({"x": np.array([1, np.inf])}, "result.x[1]: inf is not JSON"),
        ({"x": np.float32("nan")}, "result.x: nan is not JSON"),
        ({(1, 2): 3}, "result: the key (1, 2) is of type tuple; keys are texts"),
        (np.zeros(MAX_ARRAY_ITEMS + 1), "result: numpy.ndarray has 100,001 items, and at most 100,000 are encoded"),
        ({"x": np.array([1 + 2j])}, "result.x[0]: complex is not JSON"),
        (cyclic(), "result[0].again: list contains itself"),
        (nested(100_000), "result: it is nested too deeply, or contains itself"),
    ],
)
def test_a_value_that_is_no_json_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(ResultInvalid) as caught:
        encode_result(value)

    assert str(caught.value).startswith(message)


def test_the_largest_array_is_encoded() -> None:
    assert len(json.loads(encode_result(np.zeros(MAX_ARRAY_ITEMS)))) == MAX_ARRAY_ITEMS
