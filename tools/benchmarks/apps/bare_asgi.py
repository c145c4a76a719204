"""An ASGI application without a framework: it parses a body, builds a task message and calls one script."""

import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import django
import msgspec

from runqy.broker import asynq_pb2
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.request import AnyBroker, Request
from runqy.core.environment.connection_urls import RedisTarget
from tools.benchmarks.apps.store import STORE

django.setup()  # gunicorn's worker class is runqy's, and needs it


class Body(msgspec.Struct):
    """The body of an enqueue request."""

    queue: str
    data: msgspec.Raw
    timeout: int = 0


decoder = msgspec.json.Decoder(Body)
broker = AsyncBroker.connect(RedisTarget(addresses=(("127.0.0.1", int(os.environ["BENCH_REDIS_PORT"])),)))


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Enqueue one task."""
    if scope["type"] == "lifespan":
        await _run_lifespan(receive, send)
        return
    body, is_complete = b"", False
    while not is_complete:
        message = await receive()
        body += message["body"]
        is_complete = not message.get("more_body", False)
    content = await _store(broker, decoder.decode(body))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _store(broker: AnyBroker, body: Body) -> bytes:
    task_id = str(uuid.uuid4())
    message = asynq_pb2.TaskMessage(
        type=body.queue, payload=bytes(body.data), id=task_id, queue=body.queue, retry=3, timeout=body.timeout
    )
    prefix = f"bench:{{{body.queue}}}:"
    now_ns = broker.now_ns()
    command = STORE(
        task=f"{prefix}t:{task_id}",
        pending=f"{prefix}pending",
        task_id=task_id,
        message=message.SerializeToString(),
        now_ns=now_ns,
    )
    await broker.send(Request((command,), parse=lambda replies: None))
    return b'{"info":{"id":"%s","queue":"%s","state":"pending"}}' % (task_id.encode(), body.queue.encode())


async def _run_lifespan(
    receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        if event == "shutdown":
            await broker.close()
        await send({"type": f"lifespan.{event}.complete"})
