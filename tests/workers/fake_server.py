"""Stands in for the server's registration route, on loopback."""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis as redis_py

from runqy.broker import keys

API_KEY = "worker-key-of-tests"


class FakeServer:
    """Answers registrations with what a test tells it to."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.status = 200
        self.code = "test"
        self.refused: set[str] = set()
        """Queues that there are none of."""
        self.requests: list[dict[str, Any]] = []
        self.registered = threading.Semaphore(0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                is_known = self.headers["Authorization"] == f"Bearer {API_KEY}"
                status, answer = outer.reply(body) if is_known else (401, {"detail": "unknown key", "code": "x"})
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                outer.registered.release()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body for a registration."""
        if body["queue"] in self.refused:
            return 404, {"detail": "No such queue.", "code": "queue_not_found"}
        if self.status != 200:
            return self.status, {"detail": f"the server says {self.status}", "code": self.code}
        return 200, copy.deepcopy(self.answer) | {"worker_id": body["worker_id"]}

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def registration_answer(*, redis_port: int, git_url: str, queue: str = "mail", **changes: Any) -> dict[str, Any]:
    """Return a server's answer to a registration."""
    deployment = {
        "git_url": git_url,
        "branch": "main",
        "startup_cmd": "python main.py",
        "startup_timeout_secs": 20,
        **changes.pop("deployment", {}),
    }
    return {
        "lease_secs": 30,
        "redis": {"addr": f"127.0.0.1:{redis_port}", "password": "", "db": 0, "use_tls": False},
        "queue": {"name": queue, "priority": 1, "mode": "long_running", **changes.pop("queue_changes", {})},
        "sub_queues": [{"name": queue, "priority": 1}],
        "deployment": deployment,
        "limits": {"retry_delay_secs": 1, "retry_max_delay_secs": 2},
        "vaults": {},
        **changes,
    }


def change_configuration(redis: redis_py.Redis, server: FakeServer, token: str) -> None:
    """Tell the workers of `mail` that their queue changed."""
    server.answer["queue"]["revision"] = token
    redis.hset(keys.QUEUE_REVISIONS, "mail", token)
    redis.publish(keys.CHANGED_CHANNEL, "mail")
