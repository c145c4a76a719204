"""What takes long is dealt to the processes that run the tests, and nothing else is done to the tests."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.slow_tests import SLOW_S, TESTS, deal_slow_tests

QUICK = [f"quick/test_{number}.py" for number in range(97)]


def make_items(*paths: str) -> list[Any]:
    return [SimpleNamespace(path=TESTS / path, number=number) for number, path in enumerate(paths)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_process_begins_with_its_share_of_what_takes_long(processes: int) -> None:
    slow = [name if name.endswith(".py") else f"{name}/test_it.py" for name in SLOW_S]
    items = make_items(*QUICK, *slow)

    dealt = deal_slow_tests(items, processes)

    assert sorted(dealt, key=items.index) == items
    parts, rest = [], list(dealt)
    for number in range(processes):  # as pytest-xdist does
        size = len(rest) // (processes - number)
        parts.append(rest[:size])
        rest = rest[size:]
    shares = [[item for item in part if "quick" not in item.path.parts] for part in parts]
    assert sum(map(len, shares)) == len(slow)
    assert [part[: len(share)] for part, share in zip(parts, shares, strict=True)] == shares


def test_tests_of_one_module_stay_together_and_in_their_order() -> None:
    items = make_items(
        "supervisor/test_up.py", *QUICK, "supervisor/test_up.py", "browser/test_a.py", "browser/test_b.py"
    )

    dealt = deal_slow_tests(items, 2)

    assert [item for item in dealt if item.path.name == "test_up.py"] == [items[0], items[-3]]
    assert abs(dealt.index(items[0]) - dealt.index(items[-3])) == 1
    assert abs(dealt.index(items[-2]) - dealt.index(items[-1])) == 1


def test_what_is_called_slow_exists() -> None:
    assert [name for name in SLOW_S if not (TESTS / name).exists()] == []
