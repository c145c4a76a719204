"""Functions that run the members of a micro-batch in one call."""

from typing import Any

import pytest

from runqy_sdk import Context, batch, handlers
from runqy_sdk.testing import call_batch
from tests.sdk.conftest import Program, Start

BOTH_KINDS = pytest.mark.parametrize("kind", ["def", "async def"])
SQUARES = """
import asyncio, time
from dataclasses import dataclass
from runqy_sdk import Context, Fail, Retry, batch, load, run

@dataclass
class Item:
    number: int
    do: str = ""

class Scalar:  # as a tensor without dimensions
    def __len__(self):
        raise TypeError("a scalar has no length")
    __iter__ = __len__

@load
def load_model():
    return 100

calls = 0

@batch(max_size=16, max_wait_ms=20, retry_on=(OSError,))
{kind} squares(items: list[Item], contexts: list[Context], offset):
    global calls
    calls += 1
    for item, ctx in zip(items, contexts):
        if item.do == "stream":
            ctx.log.info("streaming")
            ctx.progress(1)
            ctx.chunk("a")
            ctx.chunk("b")
        if item.do == "wait":
            ctx.progress(0)
            while not contexts[-1].cancelled:
                {sleep}
        if item.do == "short":
            return [1, 2, 3]
        if item.do == "raise":
            raise OSError("away")
        if item.do == "scalar":
            return Scalar()
    outcomes = {{"retry": Retry("busy", delay=3), "fail": Fail("no"), "bug": KeyError("x"), "away": OSError("gone"),
        "set": {{1}}, "stream": None}}
    return [outcomes[item.do] if item.do in outcomes else [offset + item.number ** 2, len(items), calls]
        for item in items]

run()
"""


def squares(kind: str) -> str:
    return SQUARES.format(kind=kind, sleep="await asyncio.sleep(0.01)" if "async" in kind else "time.sleep(0.01)")


def send(program: Program, *payloads: Any) -> None:
    """Send a batch whose members are t0, t1 and so on."""
    tasks = [{"task_id": f"t{n}", "queue": "mail", "payload": payload} for n, payload in enumerate(payloads)]
    program.write({"batch": tasks})


@BOTH_KINDS
def test_each_member_has_its_own_outcome(start: Start, kind: str) -> None:
    program = start(squares(kind), version=2)

    send(program, *[{"number": 2, "do": do} for do in ("", "retry", "fail", "bug", "away", "set")], {"number": "x"})

    responses = program.read_responses(7)
    assert responses["t0"] == {"task_id": "t0", "result": [104, 6, 1], "error": None, "retry": False}
    errors = {name: (response["error"], response["retry"]) for name, response in responses.items()}
    assert errors["t1"] == ("busy", True)
    assert responses["t1"]["retry_delay_s"] == 3
    assert errors["t2"] == ("no", False)
    assert errors["t3"] == ("KeyError: 'x'\n", False)
    assert errors["t4"] == ("OSError: gone\n", True)
    assert errors["t5"][0].startswith("result_invalid: result: set is not JSON; ")
    assert errors["t6"] == ("payload_invalid: payload.number: expected an integer, got a string", False)


@BOTH_KINDS
def test_a_number_that_python_does_not_read_fails_its_member(start: Start, kind: str) -> None:
    program = start(squares(kind), version=2)
    payloads = ('{"number":1}', '{"number":%s}' % ("1" * 5000), '{"number":2}')

    tasks = ",".join(f'{{"task_id":"t{n}","payload":{payload}}}' for n, payload in enumerate(payloads))
    program.process.stdin.write(f'{{"batch":[{tasks}]}}\n')
    program.process.stdin.flush()

    responses = program.read_responses(3)
    assert responses["t1"]["error"].startswith("payload_invalid: Exceeds the limit")
    assert [responses[name]["result"] for name in ("t0", "t2")] == [[101, 2, 1], [104, 2, 1]]


@BOTH_KINDS
def test_members_stream_log_and_report_by_themselves(start: Start, kind: str) -> None:
    program = start(squares(kind), version=2)

    send(program, {"number": 1}, {"number": 2, "do": "stream"})

    assert [program.read() for _ in range(5)] == [
        {"task_id": "t1", "log": "INFO streaming"},
        {"task_id": "t1", "progress": {"current": 1}},
        {"task_id": "t1", "chunk": "a"},
        {"task_id": "t1", "chunk": "b"},
        {"task_id": "t0", "result": [101, 2, 1], "error": None, "retry": False},
    ]
    assert program.read()["result"] is None


@BOTH_KINDS
@pytest.mark.parametrize(
    ("do", "error", "retry"),
    [
        ("raise", "OSError: away\n", True),
        ("short", "result_invalid: the function of @batch returned 3 results for {} payloads; return one", False),
        ("scalar", "TypeError: a scalar has no length\n", False),
    ],
)
def test_an_exception_fails_the_batch_and_of_one_member_its_task(
    start: Start, kind: str, do: str, error: str, retry: bool
) -> None:
    program = start(squares(kind), version=2)

    send(program, {"number": 1}, {"number": 2, "do": do})
    whole = program.read()
    send(program, {"number": 2, "do": do})
    single = program.read()

    assert whole["batch"] == [{"task_id": "t0"}, {"task_id": "t1"}]
    assert error.format(2) in whole["error"]
    assert single["task_id"] == "t0"
    assert error.format(1) in single["error"]
    assert single["retry"] is retry


@BOTH_KINDS
def test_a_cancelled_member_is_answered_while_the_others_continue(start: Start, kind: str) -> None:
    program = start(squares(kind), version=2)
    send(program, {"number": 1, "do": "wait"}, {"number": 2}, {"number": 3})
    program.read()

    program.write({"control": "cancel", "task_id": "t1"})
    assert program.read() == {"task_id": "t1", "result": None, "error": "the task was cancelled", "retry": False}
    program.write({"control": "cancel", "task_id": "t2"})

    assert program.read()["task_id"] == "t2"
    assert program.read() == {"task_id": "t0", "result": [101, 3, 1], "error": None, "retry": False}


@BOTH_KINDS
def test_a_batch_without_members_left_is_interrupted(start: Start, kind: str) -> None:
    wait = "await asyncio.sleep(600)" if "async" in kind else "all(c.cancelled for c in ctx) and ctx[0].check()"
    program = start(
        f"""
import asyncio, time
from runqy_sdk import batch, run

@batch(max_size=2, max_wait_ms=0)
{kind} work(payloads, ctx):
    ctx[0].progress(0)
    while True:
        {wait}
        time.sleep(0.01)

run()
""",
        version=2,
    )
    send(program, 1, 2)
    program.read()

    for name in ("t1", "t0"):
        program.write({"control": "cancel", "task_id": name})

    responses = program.read_responses(2)
    assert {response["error"] for response in responses.values()} == {"the task was cancelled"}
    assert program.end() == 0


def test_the_last_member_is_answered_when_the_function_has_ended(start: Start) -> None:
    program = start(
        """
import time
from runqy_sdk import Context, TaskCancelled, batch, run

@batch(max_size=2, max_wait_ms=0)
def work(payloads, contexts: list[Context]):
    contexts[0].progress(0)
    while not all(ctx.cancelled for ctx in contexts):
        time.sleep(0.01)
    raise TaskCancelled("cleaned up")

run()
""",
        version=2,
    )
    send(program, 1, 2)
    program.read()

    for name in ("t1", "t0"):
        program.write({"control": "cancel", "task_id": name})

    assert [program.read()["error"] for _ in range(2)] == ["the task was cancelled", "cleaned up"]


@BOTH_KINDS
def test_an_older_worker_gets_batches_of_one(start: Start, kind: str) -> None:
    program = start(squares(kind))

    assert program.run({"number": 3})["result"] == [109, 1, 1]
    assert program.run({"number": 3, "do": "raise"})["retry"] is True
    assert program.run({})["error"] == "payload_invalid: payload.number: this field is required"
    assert program.run({"number": 3, "do": "stream"}) == {"task_id": "t1", "progress": {"current": 1}}
    assert program.read()["result"] == "ab"


@pytest.fixture
def _no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_handlers", [])


@pytest.mark.usefixtures("_no_handler")
def test_a_test_calls_a_batch_as_a_worker_would() -> None:
    sizes = []

    @batch(max_size=4, max_wait_ms=5)
    def halve(numbers: list[int], contexts: list[Context], model: str) -> list[Any]:
        sizes.append(len(numbers))
        if 0 in numbers:
            raise ZeroDivisionError(model)
        contexts[0].chunk(numbers[0])
        return [number / 2 for number in numbers]

    good, invalid = call_batch(halve, [3, "x"], loaded="m")
    failed, alone = call_batch(halve, [0, 4], loaded="m")

    assert (good.result, good.chunks) == (1.5, [3])
    assert invalid.error == "payload_invalid: payload: expected an integer, got a string"
    assert failed.error.endswith("ZeroDivisionError: m\n")
    assert (alone.result, alone.error) == (2, None)
    assert sizes == [1, 2, 1, 1]


@pytest.mark.parametrize("mark", [batch, batch()])
@pytest.mark.usefixtures("_no_handler")
def test_a_batch_has_sixteen_members_within_20_ms_unless_said_otherwise(mark: Any) -> None:
    @mark
    def double(payloads: list) -> list:
        return [2 * payload for payload in payloads]

    assert double.runqy_handler.batch == {"max_size": 16, "max_wait_ms": 20}
    assert double([1]) == [2]


def halve(payloads: int) -> None: ...
def one(payloads: list, info: Context) -> None: ...
def parts(payloads: list) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "limits", "error"),
    [
        (halve, {}, r"TypeError: @batch: the parameter 'payloads' of halve gets a list of payloads; annotate it with"),
        (one, {}, r"TypeError: @batch: the parameter 'info' gets a list; annotate it with list\[Context\]"),
        (parts, {}, r"TypeError: @batch: parts is a generator; return a list with a result for each payload"),
        (halve, {"max_size": 0}, "ValueError: @batch: max_size: 0 is not a whole number from 1 to 256"),
        (halve, {"max_size": 257}, "ValueError: @batch: max_size: 257 is not a whole number from 1 to 256"),
        (halve, {"max_wait_ms": 0.5}, "ValueError: @batch: max_wait_ms: 0.5 is not a whole number from 0 to 60000"),
    ],
)
@pytest.mark.usefixtures("_no_handler")
def test_a_mistake_in_the_declaration_is_named(function: Any, limits: dict, error: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        batch(**{"max_size": 2, "max_wait_ms": 0} | limits)(function)

    assert raised.match(error.partition(": ")[2])
