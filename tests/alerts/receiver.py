"""A webhook that keeps what it receives."""

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


class Receiver:
    """A webhook on loopback."""

    def __init__(self) -> None:
        self.status = 200
        self.respond: Callable[[BaseHTTPRequestHandler], None] = self.respond_with_status
        self.responded = threading.Event()
        self.requests: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                with suppress(ConnectionError):
                    receiver.respond(self)
                receiver.responded.set()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond_with_status(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        handler.send_header("location", "/elsewhere")
        handler.send_header("content-length", "0")
        handler.end_headers()

    @property
    def types(self) -> list[str]:
        """Return the types of the messages received."""
        return [json.loads(body)["type"] for _, body in self.requests]
