"""Pages share a value while it is young; it is read once for all that wait for it, and others are not held up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runqy import clock
from runqy.shared_values import SharedValues
from tests.support.waiting import wait_until


def test_threads_that_need_a_value_at_once_read_it_once() -> None:
    values: SharedValues[str, int] = SharedValues(max_age_s=60, max_size=5)
    read = []
    begun, go_on = threading.Event(), threading.Event()

    def read_slowly() -> int:
        read.append(1)
        begun.set()
        assert go_on.wait(30)
        return 7

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(values.get, "a", read_slowly)
        assert begun.wait(30)
        others = [threads.submit(values.get, "a", read_slowly) for _ in range(3)]
        go_on.set()

        assert [future.result(30) for future in (first, *others)] == [7] * 4
    assert read == [1]


def test_threads_that_waited_for_a_read_share_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    values: SharedValues[str, int] = SharedValues(max_age_s=60, max_size=5)
    read, called = [], []
    begun, go_on = threading.Event(), threading.Event()
    read_clock = clock.monotonic_s
    monkeypatch.setattr(clock, "monotonic_s", lambda: called.append(1) or read_clock())

    def fail_slowly() -> int:
        read.append(1)
        begun.set()
        assert go_on.wait(30)
        raise OSError("away")

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(values.get, "a", fail_slowly)
        assert begun.wait(30)
        others = [threads.submit(values.get, "a", fail_slowly) for _ in range(3)]
        wait_until(lambda: len(called) == 4)  # each has noted when it began to wait
        go_on.set()

        assert [str(future.exception(30)) for future in (first, *others)] == ["away"] * 4
    assert read == [1]
    assert values.get("a", lambda: 2) == 2


def test_a_slow_value_holds_up_no_other() -> None:
    values: SharedValues[str, int] = SharedValues(max_age_s=60, max_size=5)
    begun, go_on = threading.Event(), threading.Event()

    def read_slowly() -> int:
        begun.set()
        return int(go_on.wait(30))

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(values.get, "a", read_slowly)
        assert begun.wait(30)

        assert threads.submit(values.get, "b", lambda: 2).result(30) == 2
        go_on.set()
        assert slow.result(30) == 1


def test_a_value_that_is_too_old_is_read_again() -> None:
    values: SharedValues[str, int] = SharedValues(max_age_s=-1, max_size=5)

    assert [values.get("a", lambda: 1), values.get("a", lambda: 2)] == [1, 2]


def test_a_failure_is_not_kept() -> None:
    values: SharedValues[str, float] = SharedValues(max_age_s=60, max_size=5)
    with pytest.raises(ZeroDivisionError):
        values.get("a", lambda: 1 / 0)

    assert values.get("a", lambda: 2) == 2


def test_the_value_that_was_needed_longest_ago_is_forgotten_first() -> None:
    values: SharedValues[str, str] = SharedValues(max_age_s=60, max_size=2)
    for key in ("a", "b", "a", "c"):
        values.get(key, lambda: "old")

    assert {key: values.get(key, lambda: "new") for key in ("a", "b")} == {"a": "old", "b": "new"}
