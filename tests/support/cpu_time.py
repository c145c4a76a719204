"""`--cpu`: a table of the processor time that tests, modules and fixtures cost, with the processes that they start."""

import os
import resource
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_ROWS = 40
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option; without it nothing is measured."""
    parser.addoption("--cpu", action="store_true", help="print what costs most processor time, by test and by fixture")


def pytest_configure(config: pytest.Config) -> None:
    """Measure in each process that runs tests."""
    if config.getoption("--cpu"):
        config.pluginmanager.register(CpuTimes(config))


class CpuTimes:
    """Processor time in seconds by test, module and fixture; the wall-clock time of tests beside it.

    A fixture's time counts for it alone, not for the test that happens to be the first to use it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: Counter[str] = Counter()
        self._fixtures: Counter[str] = Counter()
        self._elapsed: Counter[str] = Counter()
        self._of_fixtures_s = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test from the setup of its fixtures to their end."""
        self._of_fixtures_s, started_s = 0.0, time.monotonic()
        with _measured(self._tests, item.nodeid):
            result = yield
        self._tests[item.nodeid] -= self._of_fixtures_s
        self._elapsed[item.nodeid] += time.monotonic() - started_s
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Measure a fixture, without those that it uses: these have been set up before."""
        name = f"{fixturedef.baseid}::{fixturedef.argname} ({fixturedef.scope})"
        before_s = self._fixtures[name]
        with _measured(self._fixtures, name):
            result = yield
        self._of_fixtures_s += self._fixtures[name] - before_s
        return result

    def pytest_sessionfinish(self) -> None:
        """Let a worker of xdist pass its times to the process that prints them."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["cpu"] = (dict(self._tests), dict(self._fixtures), dict(self._elapsed))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker of xdist has measured."""
        mine = (self._tests, self._fixtures, self._elapsed)
        for times, added in zip(mine, getattr(node, "workeroutput", {}).get("cpu", ()), strict=False):
            times.update(added)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the tables, the most expensive rows first."""
        modules: Counter[str] = Counter()
        for nodeid, cpu_s in self._tests.items():
            modules[nodeid.partition("::")[0]] += cpu_s
        total_s = sum(self._tests.values()) + sum(self._fixtures.values())
        terminalreporter.section(f"processor time: {total_s:.0f} s")
        for title, times in (("modules", modules), ("tests", self._tests), ("fixtures", self._fixtures)):
            terminalreporter.line(f"{title}: {sum(times.values()):.0f} s")
            for name, cpu_s in times.most_common(_ROWS):
                elapsed_s = self._elapsed.get(name)
                terminalreporter.line(f"{cpu_s:8.1f} {'' if elapsed_s is None else f'{elapsed_s:.1f}':>8} {name}")


@contextmanager
def _measured(times: Counter[str], name: str) -> Iterator[None]:
    before_s = _spent_s()
    try:
        yield
    finally:
        times[name] += max(0.0, _spent_s() - before_s)


def _spent_s() -> float:
    """Return what this process, its descendants that ended and those that run have used."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + _running_s(os.getpid())


def _running_s(pid: int) -> float:
    """Return what the descendants of a process have used, by Linux's /proc; 0 elsewhere."""
    spent_s = 0.0
    for child in _list_children(pid):
        # It may end at any time.
        with suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            spent_s += sum(map(int, fields[11:15])) / _TICKS_PER_S
        spent_s += _running_s(child)
    return spent_s


def _list_children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found
