"""A WSGI app without a framework that parses a body, builds a task message and calls one script: the yardstick."""

import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from benchmarks.apps.store import STORE
from runqy.broker import asynq_pb2
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget


class Body(msgspec.Struct):
    """The body of an enqueue request."""

    queue: str
    data: msgspec.Raw
    timeout: int = 0


decoder = msgspec.json.Decoder(Body)
broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", int(os.environ["BENCH_REDIS_PORT"])),)))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Put one task on a list."""
    body = decoder.decode(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    task_id = str(uuid.uuid4())
    message = asynq_pb2.TaskMessage(
        type=body.queue, payload=bytes(body.data), id=task_id, queue=body.queue, retry=3, timeout=body.timeout
    )
    prefix = f"bench:{{{body.queue}}}:"
    store = STORE(
        task=f"{prefix}t:{task_id}",
        pending=f"{prefix}pending",
        task_id=task_id,
        message=message.SerializeToString(),
        now_ns=broker.now_ns(),
    )
    broker.link.execute([store])
    answer = b'{"info":{"id":"%s","queue":"%s","state":"pending"}}' % (task_id.encode(), body.queue.encode())
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
