"""Deals what takes long to the processes that run the tests, each of which begins with its share.

pytest-xdist gives each process an equal part of the list, in its order (`--dist worksteal`); who has finished takes
tests from the end of another's part. What is slow must not be there: the others would wait for it, and a fixture of a
module whose tests are taken away would be made twice.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

SLOW_S = {
    "browser": 400,
    "supervisor/test_up.py": 120,
    "settings/test_postgresql.py": 110,
    "supervisor/test_survival.py": 90,
    "monitoring/test_stack.py": 60,
    "faults/test_redis.py": 60,
    "faults/test_audit_stream.py": 60,
    "faults/test_database.py": 50,
    "workers/test_bad_network.py": 50,
    "workers/test_redis_user.py": 50,
    "workers/test_reconnecting.py": 50,
    "history/test_process.py": 40,
    "supervisor/test_examples_for_real.py": 40,
    "faults/test_revocation.py": 30,
    "alerts/test_maintenance.py": 25,
    "vaults/test_rotation.py": 20,
    "benchmarks": 20,
    "secret_leaks/test_search.py": 20,
}
"""Modules and packages of tests, and how many seconds each takes about."""


def deal_slow_tests(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return the tests in the order in which they are run by so many processes."""
    groups: dict[str, list[pytest.Item]] = {name: [] for name in SLOW_S}
    others = []
    for item in items:
        name = _find_group(item)
        (others if name is None else groups[name]).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    taken_s = [0] * processes
    for name in sorted(groups, key=SLOW_S.__getitem__, reverse=True):
        least = taken_s.index(min(taken_s))
        taken_s[least] += SLOW_S[name]
        shares[least] += groups[name]
    dealt, remaining = [], len(items)
    for number, share in enumerate(shares):
        size = remaining // (processes - number)
        remaining -= size
        filler = max(size - len(share), 0)
        dealt += share + others[:filler]
        del others[:filler]
    return dealt + others


def _find_group(item: pytest.Item) -> str | None:
    """Return the slow package or module that a test is of."""
    path = item.path.relative_to(TESTS)
    return next((name for name in (path.as_posix(), path.parts[0]) if name in SLOW_S), None)
