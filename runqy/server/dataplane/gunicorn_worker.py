"""gunicorn's worker class for web processes."""

import asyncio
import os
import select
import signal
import socket
import sys
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker

GRACEFUL_SHUTDOWN_S = 8
"""How long requests in progress may take after the process has stopped accepting connections."""
NOTIFY_EVERY_S = 2
MAX_ACCEPT_TURNS = 100
"""How many iterations of the loop accept waiting connections before the process stops: there may always be new ones."""


class AcceptingServer(Server):
    """uvicorn's server, which leaves no connection behind that a socket has accepted."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept all waiting connections first: closing the sockets resets them."""
        waiting = select.poll()
        for sock in sockets or ():
            waiting.register(sock, select.POLLIN)
        for _ in range(MAX_ACCEPT_TURNS):
            if not waiting.poll(0):
                break
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await super().shutdown(sockets)


class WebWorker(UvicornWorker):  # type: ignore[misc] # it has no types
    """uvicorn's worker with uvicorn's options for this server.

    `http` is a string so that gunicorn's master does not import the module: after a reload it runs the new code.
    """

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        "http": "runqy.server.dataplane.protocol:HttpProtocol",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # RUNQY_TRUSTED_PROXIES decides, in both planes
        "reset_contextvars": True,  # else a pipelined request inherits the id of the one before
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN_S,
        "timeout_notify": NOTIFY_EVERY_S,
    }

    async def callback_notify(self) -> None:
        if os.getppid() == self.ppid:
            self.notify()
        else:  # the master died
            os.kill(os.getpid(), signal.SIGTERM)

    async def _serve(self) -> None:  # UvicornWorker has no public way to choose the server's class
        self.config.app = self.wsgi
        server = AcceptingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
