"""The sockets of the web server: its master binds them, its processes listen on them once they can respond."""

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gunicorn.sock import TCP6Socket, TCPSocket

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter


def bind_listener(address: "tuple[str, int]", server: "Arbiter") -> TCPSocket:
    """Return a socket that refuses connections until the first web process listens on it, through uvicorn.

    Clients then try another server. Were it to listen from here on, a proxy's first requests would wait for the
    process, or be reset.
    """

    class BoundSocket(TCP6Socket if ":" in address[0] else TCPSocket):  # type: ignore[misc] # it has no types
        def set_options(self, sock: socket.socket, bound: bool = False) -> socket.socket:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports in TIME_WAIT are free
            self.bind(sock)
            # With it, another server could bind the port until this one listens.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            sock.setblocking(False)
            sock.set_inheritable(True)
            return sock

    return BoundSocket(address, server.cfg, server.log)


def prepare_to_listen(sockets: Iterable[socket.socket]) -> None:
    """Let bound sockets listen although connections of an earlier server on the port have not ended."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
