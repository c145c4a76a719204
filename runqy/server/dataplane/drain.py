"""Graceful shutdown of a web process: report that it is not ready, end waits, then stop the server."""

import asyncio
import signal
import threading
from collections.abc import Callable

Hook = Callable[[], None]


class Drain:
    """Handles the signals of a web process, and calls uvicorn's own handler at the end.

    SIGTERM drains; uvicorn stops after `drain_s`. A second SIGTERM, SIGINT and SIGQUIT stop it at once. SIGUSR1, which
    gunicorn's master passes on, drains without stopping. A supervisor sends it when it begins to stop.
    """

    def __init__(self, drain_s: float) -> None:
        self.is_draining = False
        self._drain_s = drain_s
        self._drain_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []
        self._stop_timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._stop_server: Hook = lambda: None

    def on_drain(self, hook: Hook) -> None:
        """Add a hook that ends waits. It is called on the loop when draining begins."""
        self._drain_hooks.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Add a hook that is called on the loop when the server is about to stop accepting requests."""
        self._stop_hooks.append(hook)

    def install(self) -> None:
        """Replace the signal handlers. Called at the ASGI lifespan's startup, after uvicorn has set its own."""
        # Python allows signal handlers on the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return
        server_handler = signal.getsignal(signal.SIGTERM)
        if callable(server_handler):
            self._stop_server = lambda: server_handler(signal.SIGTERM, None)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain)
        loop.add_signal_handler(signal.SIGUSR1, self.begin)
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self.stop)

    def begin(self) -> None:
        if not self.is_draining:
            self.is_draining = True
            for hook in self._drain_hooks:
                hook()

    def drain(self) -> None:
        """Begin draining, and stop after `drain_s`. Called again, stop at once."""
        self.begin()
        if self._stop_timer is not None or not self._drain_s:
            self.stop()
        else:
            self._stop_timer = asyncio.get_running_loop().call_later(self._drain_s, self.stop)

    def stop(self) -> None:
        self.begin()
        if not self._is_stopped:
            self._is_stopped = True
            for hook in self._stop_hooks:
                hook()
            self._stop_server()
