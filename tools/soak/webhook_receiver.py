"""A receiver of webhooks that can be away, and that has maintenance killed before it responds."""

import hashlib
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

from tests.support.servers import free_port


class WebhookReceiver:
    """A receiver that remembers each message by its `webhook-id`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/runqy"
        self.secret = ""
        self.ids: Counter[str] = Counter()
        """How often each message arrived."""
        self.tasks: set[str] = set()
        self.problems: list[str] = []
        self.interrupted: set[str] = set()
        """The messages whose sender was killed before it recorded them."""
        self._bodies: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._interrupt: Callable[[], bool] = lambda: False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen for the duration of the block. Nothing listens on the port otherwise."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                # A sender that was killed may have sent a part, which no receiver takes for a message.
                if len(body) == length and receiver.accept(dict(self.headers.items()), body):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    @contextmanager
    def interrupting(self, kill: Callable[[], object], *, kills: int, among: int, rng: random.Random) -> Iterator[None]:
        """Kill the senders of some of the next `among` messages, before these get their response."""
        moments = set(rng.sample(range(among), kills))
        numbers = itertools.count()

        def interrupt() -> bool:
            if next(numbers) not in moments:
                return False
            kill()
            return True

        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = lambda: False

    def accept(self, headers: dict[str, str], body: bytes) -> bool:
        """Check and remember a message; return whether it gets a response."""
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        # Without the limit of five minutes of the library's `verify`, which a busy machine could exceed.
        signed = Webhook(self.secret).sign(message_id, datetime.fromtimestamp(int(timestamp), UTC), body.decode())
        digest = hashlib.sha256(body).digest()
        with self._lock:
            if signed not in headers["webhook-signature"].split():
                self.problems.append(f"{message_id} has a wrong signature")
            if self._bodies.setdefault(message_id, digest) != digest:
                self.problems.append(f"{message_id} arrived with another body")
            self.ids[message_id] += 1
            self.tasks.add(json.loads(body)["data"]["id"])
            if self._interrupt():
                self.interrupted.add(message_id)
                return False
        return True
