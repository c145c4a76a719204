"""Distribute slow tests over the processes that run the tests, so that each begins with its share.

With `--dist worksteal` pytest-xdist gives each process an equal part of the list, in its order, and a process that has
finished takes tests from the end of another's part. Slow tests must not be there: the other processes would wait for
them, and a module's fixtures would be created twice if its tests were taken.
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
"""Modules and packages of tests, and about how many seconds each takes."""


def deal_slow_tests(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return the tests in the order in which this number of processes should run them."""
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
    path = item.path.relative_to(TESTS)
    return next((name for name in (path.as_posix(), path.parts[0]) if name in SLOW_S), None)
