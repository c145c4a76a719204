"""A webhook that keeps what it receives."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from tests.support.waiting import PATIENCE_S
from webhooks import sender
from webhooks.sender import Sender

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


class Receiver:
    """A webhook on loopback."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
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

        class Server(ThreadingHTTPServer):
            request_queue_size = 1024

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond_with_status(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        handler.send_header("location", "/elsewhere")
        handler.send_header("content-length", "0")
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    @property
    def types(self) -> list[str]:
        """Return the types of the messages received."""
        return [json.loads(body)["type"] for _, body in self.requests]


@pytest.fixture
def receiver(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver, which is also that of alerts, on a network that is open."""
    monkeypatch.setattr(sender, "TIMEOUT_S", PATIENCE_S)
    receiver = Receiver()
    settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET = receiver.url, SECRET
    settings.RUNQY_WEBHOOK_NETWORKS = LOOPBACK
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def send_due() -> int:
    """Send what is due, as maintenance does, until nothing is; return how many were accepted."""
    sender, accepted = Sender(), 0
    while True:
        accepted += sender.run(duration_s=PATIENCE_S)
        if sender.is_idle:
            sender.close()
            return accepted
