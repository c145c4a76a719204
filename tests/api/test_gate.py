"""The gate: few inside at once, and whoever waits is outside."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest

from runqy.gate import SMALL_BODY, Gate, gated
from tests.support.waiting import wait_until


def test_no_more_than_its_places_are_inside() -> None:
    gate, leave, inside = Gate(2), threading.Event(), []

    def enter(number: int) -> None:
        gate.enter()
        inside.append(number)
        leave.wait(10)
        gate.leave()

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(enter, number) for number in range(4)]
        wait_until(lambda: len(inside) == 2)
        assert not any(future.done() for future in done)
        leave.set()
        for future in done:
            future.result(10)

    assert sorted(inside) == [0, 1, 2, 3]


def test_whoever_waits_outside_lets_another_in_and_comes_back() -> None:
    gate = Gate(1)
    order: list[str] = []

    def other() -> None:
        gate.enter()
        order.append("other")
        gate.leave()

    gate.enter()
    with ThreadPoolExecutor(1) as pool:
        order.append("first")
        with gate.outside():
            pool.submit(other).result(10)
        order.append("first again")

    assert order == ["first", "other", "first again"]


def test_outside_of_the_gate_waiting_costs_no_place() -> None:
    gate = Gate(1)

    with gate.outside():
        gate.enter()
        gate.leave()
    gate.enter()


def test_a_place_is_free_again_after_an_error() -> None:
    gate = Gate(1)

    def fail(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with gate.outside():
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            list(gated(fail, gate)({"wsgi.input": BytesIO()}, None))


@pytest.mark.parametrize("length", ["4", str(SMALL_BODY + 1), ""])
def test_a_client_that_sends_slowly_holds_no_place(length: str) -> None:
    gate, sent, reading = Gate(1), threading.Event(), threading.Event()

    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reading.set()
            sent.wait(10)
            return super().read(size)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return [environ["wsgi.input"].read()]

    server = gated(application, gate)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(server, {"wsgi.input": Slow(b"slow"), "CONTENT_LENGTH": length}, None)
        assert reading.wait(10)
        quick = pool.submit(server, {"wsgi.input": BytesIO(b"quick")}, None)
        assert quick.result(10) == [b"quick"]
        sent.set()
        assert slow.result(10) == [b"slow"]
