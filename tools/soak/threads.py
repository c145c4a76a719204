"""Threads that act on a stack while a block of code runs."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self


class BackgroundThreads:
    """Starts its threads at the beginning of a `with` block, and stops them at the end."""

    def __init__(self, *, patience_s: float) -> None:
        """`patience_s` is how long the last action of a thread may take."""
        self._patience_s = patience_s
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_thread(self, act: Callable[..., None], *args: Any) -> None:
        """Add an action, which repeats until `waits` returns False."""
        self._threads.append(threading.Thread(target=act, args=args, daemon=True))

    def waits(self, seconds: float) -> bool:
        """Wait; return False once the threads have to stop."""
        return not self._stopped.wait(max(seconds, 0))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(self._patience_s)
