"""What a handler's parameters get, and mistakes in its declaration."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from runqy_sdk import Context, Fail, Retry, handlers, load, task
from runqy_sdk.testing import call


@pytest.fixture(autouse=True)
def _no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a program of its own."""
    monkeypatch.setattr(handlers, "_handlers", [])
    monkeypatch.setattr(handlers, "_loaders", [])


@dataclass
class Greeting:
    name: str


def test_parameters_are_told_apart_by_name_annotation_and_order() -> None:
    def only_payload(payload: Any) -> Any:
        return payload

    def nothing() -> str:
        return "nothing"

    def loaded_second(payload: Any, model: Any = None, *, optional: int = 5) -> Any:
        return [payload, model, optional]

    def as_in_runqy_python(payload: dict, ctx: dict):
        return [payload, ctx]

    def context_first(ctx, payload):
        return [ctx.task_id, payload]

    def context_by_type(payload, info: Context, model):
        return [payload, info.loaded, model]

    def typed(greeting: Greeting, ctx):
        return greeting.name

    assert call(only_payload, 1).result == 1
    assert call(nothing, 1).result == "nothing"
    assert call(loaded_second, 1, loaded="m").result == [1, "m", 5]
    assert call(as_in_runqy_python, {"a": 1}, loaded={"b": 2}).result == [{"a": 1}, {"b": 2}]
    assert call(context_first, 1).result == ["local", 1]
    assert call(context_by_type, 1, loaded="m").result == [1, "m", "m"]
    assert call(typed, {"name": "Ada"}).result == "Ada"


def test_a_parameter_without_a_value_is_refused() -> None:
    def three(payload, model, more):
        pass

    with pytest.raises(TypeError, match=r"the parameter 'more' of .*three gets no value"):
        task(three)


def test_a_program_has_one_handler_and_one_loader() -> None:
    task(lambda payload: 1)
    load(lambda: 1)

    with pytest.raises(TypeError, match="is marked already; a program has one handler"):
        task(lambda payload: 2)
    with pytest.raises(TypeError, match="is marked already; a program has one"):
        load(lambda: 2)


def test_a_test_calls_a_handler_as_a_worker_would() -> None:
    @task(retry_on=(OSError,))
    async def greet(greeting: Greeting, ctx: Context) -> dict[str, Any]:
        ctx.progress(1, 2)
        if greeting.name == "later":
            raise Retry("busy", delay=3)
        if greeting.name == "broken":
            raise OSError("away")
        if greeting.name == "never":
            raise Fail("no")
        return {"text": (greeting.name, ctx.attempt)}

    good, later = call(greet, {"name": "Ada"}, attempt=2), call(greet, {"name": "later"})
    broken, never, invalid = (call(greet, payload) for payload in ({"name": "broken"}, {"name": "never"}, {}))

    assert (good.result, good.error, good.progress) == ({"text": ["Ada", 2]}, None, [{"current": 1, "total": 2}])
    assert (later.will_retry, later.retry_delay_s) == (True, 3)
    assert later.error.endswith("\nrunqy_sdk.errors.Retry: busy\n")
    assert (broken.will_retry, never.will_retry, never.error) == (True, False, "no")
    assert (invalid.error, invalid.will_retry) == ("payload_invalid: payload.name: this field is required", False)


@pytest.mark.parametrize("delay", [np.int64(3), np.float32(3), Decimal(3)])
def test_a_delay_may_be_any_number(delay: Any) -> None:
    def wait(payload: Any) -> None:
        raise Retry("busy", delay=delay)

    assert call(wait).retry_delay_s == 3


@pytest.mark.parametrize("delay", [-1, 1e9, float("nan")])
def test_an_impossible_delay_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match=r"delay: .* is not between 0 and 31622400 seconds"):
        Retry(delay=delay)
