"""The hot routes on the event loop: the operations and bodies of tasks.api, as TaskViewSet serves them.

Roles and throttles are the viewset's; authentication, parsing and rendering are the functions that it calls.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from django.conf import settings

from runqy.accounts import key_uses
from runqy.accounts.identity import Identity, is_key
from runqy.accounts.queries import find_identity, is_guessable
from runqy.api.authentication import presented_key
from runqy.api.exceptions import log_unavailable
from runqy.api.idempotency import parse_idempotency_key
from runqy.api.parsers import check_encoding, check_size
from runqy.api.permissions import check_role
from runqy.api.renderers import encode_json
from runqy.api.throttling import (
    ApiKeyThrottle,
    RateLimit,
    auth_failure_limit,
    auth_failure_limit_exceeded,
    key_limit,
    key_limit_exceeded,
    refused_allowance,
)
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.operation import Operation
from runqy.broker.rates import Allowance
from runqy.dataplane.application import Handler, PassToDjango
from runqy.dataplane.bodies import find_length
from runqy.dataplane.request import Request
from runqy.dataplane.responses import (
    Headers,
    Response,
    StreamingResponse,
    empty_response,
    encode_headers,
    json_response,
    problem_response,
    shared_headers,
)
from runqy.dataplane.snapshots import SnapshotRefresher
from runqy.errors import KeyRequired, QueueNotFound, RunqyError
from runqy.middleware import forwarded_client
from runqy.request_ids import trace_headers
from tasks.api.bodies import TaskResponse, batch_response, enqueue_response, parse_batch, parse_enqueue, task_info
from tasks.api.events import EVENT_HEADERS, EVENT_TYPE, is_end_known, open_event_stream
from tasks.api.viewsets import TaskViewSet
from tasks.api.waits import enqueue_head, parse_wait, task_head, waiting_client
from tasks.batches import enqueue_batch
from tasks.operations import enqueue_task
from tasks.queries import get_task
from tasks.waiting import ResultWaiters

T = TypeVar("T")

_TASK_PATH = re.compile(r"/queue/(?P<task_id>[A-Za-z0-9._~!$&'()*+,;=:@-]+)(?P<events>/events)?")
_POST_ONLY = ("/queue/add", "/queue/add-batch")


@dataclass(slots=True)
class Call:
    """A request that is being served, and what its response says about rate limits."""

    request: Request
    address: str
    rate_limit_headers: dict[str, str]


Respond: TypeAlias = Callable[[Call, Identity], Awaitable[Response | StreamingResponse]]


class TaskEndpoints:
    """Serves the hot routes."""

    def __init__(self, broker: AsyncBroker, snapshots: SnapshotRefresher, waiters: ResultWaiters) -> None:
        self._broker = broker
        self._snapshots = snapshots
        self._waiters = waiters
        self._posts: dict[str, Respond] = {"/queue/add": self._enqueue, "/queue/add-batch": self._enqueue_batch}

    def find_handler(self, method: str, path: str) -> Handler | None:
        """Return what serves a method of a path; None for what Django serves, paths with escapes included."""
        if method == "POST" and (respond := self._posts.get(path)):
            return lambda request: self._serve(request, respond, is_safe=False)
        if method == "GET" and path not in _POST_ONLY and (found := _TASK_PATH.fullmatch(path)):
            respond_task = self._stream_events if found["events"] else self._get_task
            return lambda request: self._serve(request, partial(respond_task, task_id=found["task_id"]), is_safe=True)
        return None

    async def _serve(self, request: Request, respond: Respond, *, is_safe: bool) -> Response | StreamingResponse:
        """Authenticate, authorise and throttle a request, as DRF does, then respond."""
        address, scheme = forwarded_client(
            request.peer_address,
            request.scope["scheme"],
            forwarded_for=request.headers.get("X-Forwarded-For", ""),
            forwarded_proto=request.headers.get("X-Forwarded-Proto", ""),
        )
        if (settings.SECURE_SSL_REDIRECT and scheme != "https") or b"%00" in request.scope["query_string"]:
            raise PassToDjango
        call = Call(request, address, {})
        try:
            identity = await self._authenticate(call)
            roles = TaskViewSet.roles | TaskViewSet.read_roles if is_safe else TaskViewSet.roles
            check_role(identity, roles=roles, allows_queue_scoped_keys=TaskViewSet.allows_queue_scoped_keys)
            await self._throttle(call, identity)
            response: Response | StreamingResponse = await respond(call, identity)
        except RunqyError as error:
            log_unavailable(error)
            response = problem_response(error)
        allow: Headers = [(b"allow", b"GET, HEAD" if is_safe else b"POST")]
        response.headers += [*allow, *encode_headers(call.rate_limit_headers), *shared_headers(scheme)]
        return response

    async def _authenticate(self, call: Call) -> Identity:
        """Return whose key a request has. Raises KeyRequired, TooManyFailures."""
        key = presented_key(call.request.headers)
        if not key:
            raise KeyRequired
        if is_guess := is_guessable(key):
            await self._refuse_guess(call)
        identity = find_identity(key)
        if identity is None and is_key(key) and await self._snapshots.refresh_for_unknown():
            identity = find_identity(key)
        if identity is not None:
            if is_guess:
                await self._refuse_guess(call)  # guesses beside it have been counted since
            key_uses.record_use(identity.key_id)
            return identity
        allowance = await self._acquire(call, auth_failure_limit(call.address))
        if allowance is not None and not allowance.passes:
            raise auth_failure_limit_exceeded(allowance.wait_s)
        raise KeyRequired

    async def _refuse_guess(self, call: Call) -> None:
        """Raise TooManyFailures for an address beyond its limit, before and after a short key is compared."""
        limit = auth_failure_limit(call.address)
        if limit and (wait_s := await self._broker.run(limit.wait_s())):
            call.rate_limit_headers = limit.headers(refused_allowance(wait_s))
            raise auth_failure_limit_exceeded(wait_s)

    async def _throttle(self, call: Call, identity: Identity) -> None:
        """Count a request against its key's rate. Raises TooManyRequests."""
        if ApiKeyThrottle not in TaskViewSet.throttle_classes:
            return
        allowance = await self._acquire(call, key_limit(identity))
        if allowance is not None and not allowance.passes:
            raise key_limit_exceeded(identity, allowance.wait_s)

    async def _acquire(self, call: Call, limit: RateLimit | None) -> Allowance | None:
        if limit is None:
            return None
        allowance = await self._broker.run(limit.acquire())
        if allowance is not None:
            call.rate_limit_headers = limit.headers(allowance)
        return allowance

    async def _enqueue(self, call: Call, identity: Identity) -> Response:
        request = call.request
        body = await self._read_body(request)
        spec = parse_enqueue(body)
        wait = parse_wait(request.query_param("wait"), request.headers)
        key = parse_idempotency_key(request.headers.get("Idempotency-Key"), identity=identity, kind="task", body=body)
        headers = trace_headers(request.headers.get("traceparent", ""))
        enqueued = await self._run(
            lambda: enqueue_task(
                spec=spec.awaited() if wait.seconds else spec,
                allowed_queues=identity.queues,
                headers=headers,
                idempotency_key=key,
            )
        )
        awaited = None
        if wait.seconds:
            waiting = self._waiters.wait_for_queued(
                enqueued.record.id,
                queue=enqueued.record.queue,
                client=waiting_client(identity),
                timeout_s=wait.seconds,
            )
            awaited = await request.until_disconnect(waiting)
        status, head = enqueue_head(enqueued, awaited, wait)
        return json_response(encode_json(enqueue_response(enqueued, spec, awaited)), status, headers=head)

    async def _enqueue_batch(self, call: Call, identity: Identity) -> Response:
        request = call.request
        body = await self._read_body(request)
        spec = parse_batch(body)
        key = parse_idempotency_key(request.headers.get("Idempotency-Key"), identity=identity, kind="batch", body=body)
        headers = trace_headers(request.headers.get("traceparent", ""))
        batch = await self._run(
            lambda: enqueue_batch(spec=spec, allowed_queues=identity.queues, headers=headers, idempotency_key=key)
        )
        replayed = {"Idempotent-Replayed": "true"} if batch.is_replayed else None
        return json_response(encode_json(batch_response(batch)), headers=replayed)

    async def _get_task(self, call: Call, identity: Identity, *, task_id: str) -> Response:
        request = call.request
        wait = parse_wait(request.query_param("wait"), request.headers)
        record = await self._run(lambda: get_task(task_id, allowed_queues=identity.queues))
        if wait.seconds and not record.state.is_final:
            waiting = self._waiters.wait_for_end(
                task_id, queue=record.queue, client=waiting_client(identity), timeout_s=wait.seconds
            )
            del record  # thousands may wait, and its payload may be large
            record = await request.until_disconnect(waiting)
        body = encode_json(TaskResponse(task_info(record)))
        status, head = task_head(record, body, wait, request.headers)
        return empty_response(status, head) if status == 304 else json_response(body, status, headers=head)

    async def _stream_events(self, call: Call, identity: Identity, *, task_id: str) -> Response | StreamingResponse:
        headers = call.request.headers
        key, last_event_id = presented_key(headers), headers.get("Last-Event-ID", "")
        record = await self._run(lambda: get_task(task_id, allowed_queues=identity.queues))
        if is_end_known(record, last_event_id):
            return empty_response(204, EVENT_HEADERS)
        stream = await open_event_stream(
            self._waiters,
            record,
            client=waiting_client(identity),
            last_event_id=last_event_id,
            is_authorized=lambda: find_identity(key) == identity,
        )
        head = {"Content-Type": EVENT_TYPE} | EVENT_HEADERS
        return StreamingResponse(200, [*encode_headers(head)], stream)

    async def _run(self, operation: Callable[[], Operation[T]]) -> T:
        """Run an operation; once more if it found no queue and the snapshot was behind."""
        try:
            return await self._broker.run(operation())
        except QueueNotFound:
            if not await self._snapshots.refresh_for_unknown():
                raise
        return await self._broker.run(operation())

    @staticmethod
    async def _read_body(request: Request) -> bytes:
        check_encoding(request.headers.get("Content-Encoding", ""))
        check_size(find_length(request.scope) or 0)
        return await request.read_body(is_authenticated=True)
