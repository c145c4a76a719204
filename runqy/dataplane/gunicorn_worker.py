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
"""How long requests in progress may take once the process stops accepting connections."""
NOTIFY_EVERY_S = 2
MAX_ACCEPT_TURNS = 100
"""How many turns of the loop accept connections before the process stops: new ones may never cease."""


class AcceptingServer(Server):
    """uvicorn's server, which accepts all waiting connections before it closes its sockets: closing resets them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
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

    `http` is named by a string so that gunicorn's master does not import it: a reload then runs the new code.
    """

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        "http": "runqy.dataplane.protocol:HttpProtocol",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # RUNQY_TRUSTED_PROXIES decides, in both planes
        "reset_contextvars": True,  # a pipelined request would inherit the previous request id
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN_S,
        "timeout_notify": NOTIFY_EVERY_S,
    }

    async def callback_notify(self) -> None:
        """Report to gunicorn's master that this process is alive; stop if the master died."""
        if os.getppid() == self.ppid:
            self.notify()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    async def _serve(self) -> None:  # nothing public of UvicornWorker chooses the server's class
        self.config.app = self.wsgi
        server = AcceptingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
