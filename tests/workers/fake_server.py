"""A fake of the server's registration route, on loopback."""

import contextlib
import copy
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.workers import redis_users
from runqy.broker.workers.redis_users import RedisUser
from runqy.errors import BrokerUnavailable
from tests.support import environment
from workers.runtime.registration import RedisInfo

API_KEY = environment.WORKER_KEY


class FakeServer:
    """Responds to registrations as a test configures it."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self.status = 200
        self.code = "test"
        self.error_type = "application/problem+json"
        self.refused: set[str] = set()
        """Queues that do not exist."""
        self.gives_users = True
        """Whether workers enter its Redis as users of their own, as they do by default."""
        self.requests: list[dict[str, Any]] = []
        self.registered = threading.Semaphore(0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                is_known = self.headers["Authorization"] == f"Bearer {API_KEY}"
                status, response = outer.reply(body) if is_known else (401, {"detail": "unknown key", "code": "x"})
                content = json.dumps(response).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "application/json" if status == 200 else outer.error_type)
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
            return 404, {"detail": "Queue not found.", "code": "queue_not_found"}
        if self.status != 200:
            return self.status, {"detail": f"the server responds {self.status}", "code": self.code}
        response = self.accepted(body)
        if self.gives_users:
            create_redis_user(response, body)
        return 200, response

    def accepted(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the response to an accepted registration, with the shared Redis user."""
        return copy.deepcopy(self.response) | {"worker_id": body["worker_id"]}

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


def registration_response(*, redis_port: int, git_url: str, queue: str = "mail", **changes: Any) -> dict[str, Any]:
    """Return a server's response to a registration."""
    deployment = {
        "git_url": git_url,
        "branch": "main",
        "startup_cmd": "python main.py",
        "startup_timeout_secs": 120,
        **changes.pop("deployment", {}),
    }
    return {
        "lease_secs": 30,
        "archive_max_tasks": 10_000,
        "task_output": True,
        "redis": {"addr": f"127.0.0.1:{redis_port}", "password": "", "db": 0, "use_tls": False},
        "queue": {"name": queue, "priority": 1, "mode": "long_running", **changes.pop("queue_changes", {})},
        "sub_queues": [{"name": queue, "priority": 1}],
        "deployment": deployment,
        "limits": {"retry_delay_secs": 1, "retry_max_delay_secs": 2},
        "vaults": {},
        **changes,
    }


def create_redis_user(response: dict[str, Any], body: dict[str, Any]) -> None:
    """Create the Redis user of a worker and add it to the response, unless Redis is away or the test has one."""
    redis = response["redis"]
    if "redis_acl" not in body["accepts"] or redis.get("password"):
        return
    try:
        target = msgspec.convert(redis, RedisInfo).target
    except ValueError:  # a test of invalid responses
        return
    instance_id = body["instance_id"]
    password = hashlib.sha256(instance_id.encode()).hexdigest()
    user = RedisUser(
        name=f"{redis_users.PREFIX}{instance_id}",
        password_sha256=hashlib.sha256(password.encode()).hexdigest(),
        instance_id=instance_id,
        worker_ids=(body["worker_id"],),
        redis_queues=tuple(queue["name"] for queue in response["sub_queues"]),
    )
    with contextlib.suppress(BrokerUnavailable):
        broker = Broker(target)
        broker.run(redis_users.create_users(broker, [user], target=target))
        redis |= {"username": user.name, "password": password}
        broker.close()


def change_configuration(
    redis: redis_py.Redis, server: FakeServer, token: str, *, is_notification_lost: bool = False
) -> None:
    """Notify the workers of `mail` that their queue changed."""
    server.response["queue"]["revision"] = token
    redis.hset(keys.QUEUE_REVISIONS, "mail", token)
    if not is_notification_lost:
        redis.publish(keys.CHANGED_CHANNEL, "mail")
