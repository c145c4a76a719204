"""Payloads as the types that handlers are annotated with."""

import enum
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from runqy_sdk import PayloadInvalid
from runqy_sdk.payloads import convert_payload


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Job:
    name: str
    points: list[Point]
    size: Size = Size.SMALL
    tags: dict[str, int] = field(default_factory=dict)
    format: Literal["png", "jpeg"] = "png"
    limit: int | None = None
    box: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("points: at least one is needed")


class Options(TypedDict):
    name: str
    quality: NotRequired[Annotated[int, "percent"]]


class Model(pydantic.BaseModel):
    name: str
    points: list[dict[str, float]] = []


class Struct(msgspec.Struct):
    name: str
    sizes: list[int] = []


FULL = {
    "name": "a",
    "points": [{"x": 1}, {"x": 2, "y": 3.5}],
    "size": "l",
    "tags": {"n": 1},
    "format": "jpeg",
    "limit": None,
    "box": [1, 2],
    "of a newer client": True,
}


def test_a_dataclass_is_built_with_everything_in_it() -> None:
    job = convert_payload(FULL, Job)

    assert job == Job(
        "a", [Point(1.0), Point(2.0, 3.5)], size=Size.LARGE, tags={"n": 1}, format="jpeg", limit=None, box=(1, 2)
    )
    assert isinstance(job.points[0].x, float)


def test_other_types_are_built_by_their_rules() -> None:
    assert convert_payload({"name": "a", "quality": 9, "more": 1}, Options) == {"name": "a", "quality": 9, "more": 1}
    assert convert_payload({"name": "a"}, Model) == Model(name="a")
    assert convert_payload({"name": "a", "sizes": [1]}, Struct) == Struct("a", [1])
    assert convert_payload({"a": 1}, dict[str, Any]) == {"a": 1}
    assert convert_payload(["a"], dict | list[str]) == ["a"]
    assert convert_payload(5, Any) == 5
    assert convert_payload({"a": 1}, typing.Dict) == {"a": 1}  # noqa: UP006 (as programs are annotated)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (FULL | {"points": [{"x": 1}, {"x": "2"}]}, Job, "payload.points[1].x: expected a number, got a string"),
        (FULL | {"points": [{"y": 1}]}, Job, "payload.points[0].x: this field is required"),
        (FULL | {"points": []}, Job, "payload: points: at least one is needed"),
        (FULL | {"size": "m"}, Job, "payload.size: expected one of 's', 'l', got 'm'"),
        (FULL | {"format": "gif"}, Job, "payload.format: expected one of 'png', 'jpeg', got 'gif'"),
        (FULL | {"limit": True}, Job, "payload.limit: expected an integer or null, got a boolean"),
        (FULL | {"limit": "1"}, Job, "payload.limit: expected an integer or null, got a string"),
        (1.5, dict[str, Any] | list[int] | str, "payload: expected an object or an array or a string, got a number"),
        ([1, "x"], str | list[int], "payload[1]: expected an integer, got a string"),
        (FULL | {"tags": {"n": 1.5}}, Job, "payload.tags.n: expected an integer, got a number"),
        (FULL | {"box": [1]}, Job, "payload.box: expected 2 items, got 1"),
        ({}, Job, "payload.name: this field is required"),
        ([], Job, "payload: expected an object, got an array"),
        (None, dict, "payload: expected an object, got null"),
        ({"quality": 9}, Options, "payload.name: this field is required"),
        ({"name": "a", "quality": "9"}, Options, "payload.quality: expected an integer, got a string"),
        ({"name": "a", "points": [{"x": "?"}]}, Model, "payload.points[0].x: "),
        ({"name": "a", "sizes": ["?"]}, Struct, "payload: Expected `int`, got `str` - at `$.sizes[0]`"),
    ],
)
def test_a_payload_that_does_not_fit_names_its_field(value: object, annotation: object, message: str) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        convert_payload(value, annotation)

    assert str(caught.value).startswith(message)
