"""TCP ports: find a free one, and check whether the web server responds."""

import errno
import http.client
import socket

from runqy.errors import StackFailed

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared with, not bound to)


def format_address(host: str, port: int) -> str:
    """Return `host:port`, with IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free_port(host: str, port: int) -> None:
    """Raise StackFailed if a server cannot listen on a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                advice = f"the address {host} cannot be used: {reason}. Set --host to an address of this machine."
            else:
                advice = f"port {port} cannot be used: {reason}. Set PORT to another one."
            raise StackFailed(advice) from error


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_served(host: str, port: int) -> bool:
    """Return whether the web server responds, with any status."""
    connection = http.client.HTTPConnection(_LOOPBACK_OF.get(host, host), port, timeout=5)
    try:
        connection.request("GET", "/health")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()
