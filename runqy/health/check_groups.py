"""Groups of checks. Each group runs on a thread; callers get the results that are ready by a deadline."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from django.db import connections

from runqy import clock

TIMEOUT_S = 1.2
"""How long after its start the results of a group are waited for."""


class CheckStatus(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"  # something does not work as it should
    FAILED = "failed"  # this process cannot take requests


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of a check, in words that may be public."""

    check: str
    status: CheckStatus = CheckStatus.OK
    detail: str = ""


@dataclass(slots=True)
class _Run:
    """One run of a group of checks."""

    began_s: float
    found: list[CheckResult] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class CheckGroup:
    """Runs checks that depend on one store, in order, at most once at a time."""

    def __init__(self, names: Sequence[str], *, critical: Sequence[str]) -> None:
        """`names` are those of the checks, in their order. Without a `critical` one the process is not ready."""
        self._names = names
        self._critical = frozenset(critical)
        self._lock = threading.Lock()
        self._run: _Run | None = None

    def start(self, check: Callable[[], Iterable[CheckResult]]) -> None:
        """Start the checks, unless the previous run has not ended yet: checks of a silent store must not pile up."""
        with self._lock:
            if self._run is None or self._run.done.is_set():
                self._run = _Run(clock.monotonic_s())
                threading.Thread(target=_run, args=(check, self._run), daemon=True).start()

    def results(self, *, until_s: float) -> list[CheckResult]:
        """Return the results that are ready at a monotonic time, or TIMEOUT_S after the start if that is earlier.

        If the checks have not ended by then, the last result names the one that is late.
        """
        run = self._run
        assert run is not None  # noqa: S101 (started before)
        if not run.done.wait(max(0.0, min(until_s, run.began_s + TIMEOUT_S) - clock.monotonic_s())):
            return [*(found := list(run.found)), self._late(found)]
        if run.error is not None:
            raise run.error
        return run.found

    def _late(self, found: Sequence[CheckResult]) -> CheckResult:
        done = {result.check for result in found}
        name = next((name for name in self._names if name not in done), self._names[-1])
        status = CheckStatus.FAILED if name in self._critical else CheckStatus.WARNING
        detail = f"Not finished within {TIMEOUT_S} s: the service does not respond, or this machine is busy."
        return CheckResult(check=name, status=status, detail=detail)


def _run(check: Callable[[], Iterable[CheckResult]], run: _Run) -> None:
    try:
        for result in check():
            run.found.append(result)
    except Exception as error:  # noqa: BLE001 (raised by `results`)
        run.error = error
    finally:
        connections.close_all()  # Django opens connections for each thread
        run.done.set()
