"""Put TLS in front of a server without it, as a proxy or a hosted Redis does."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def tls_front(port: int, certificate: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """Listen with TLS on a free port for a server on another port. Yield the free port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server((host, 0)) as listener:
        threading.Thread(target=_serve, args=[listener, context, port], daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_join, args=[plain, context, port], daemon=True).start()


def _join(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """Complete the TLS handshake with a client, and forward bytes both ways until either side ends."""
    try:
        client = context.wrap_socket(plain, server_side=True)
    except OSError:  # a client that does not trust the certificate
        plain.close()
        return
    server = socket.create_connection(("127.0.0.1", port))
    threading.Thread(target=_carry, args=[server, client], daemon=True).start()
    _carry(client, server)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    for end in (source, target):
        with suppress(OSError):
            end.close()
