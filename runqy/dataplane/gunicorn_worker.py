"""gunicorn's worker class for web processes."""

import os
import signal
from typing import Any

from uvicorn_worker import UvicornWorker

GRACEFUL_SHUTDOWN_S = 8
"""How long requests in progress may take once the process stops accepting connections."""
NOTIFY_EVERY_S = 2


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
