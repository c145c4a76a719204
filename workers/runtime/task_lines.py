"""The lines that send tasks and cancellations to children. See `protocol` for what they send."""

from collections.abc import Sequence

import msgspec

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.core.formats.json_decoding import check_depth, describe_error
from runqy.core.telemetry.tracing import REQUEST_ID, TRACEPARENT
from runqy.errors import PayloadUnusable
from workers.runtime.invalid_json import is_text

_encoder = msgspec.json.Encoder()
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class _TaskLine(msgspec.Struct, omit_defaults=True):
    task_id: str
    type: str
    payload: msgspec.Raw
    retry_count: int
    max_retry: int
    queue: str
    attempt: int
    request_id: str = ""
    traceparent: str = ""


def encode_task(message: TaskMessage, *, attempt: int, traceparent: str = "") -> bytes:
    """Return the line that sends a task to a child. The payload's bytes are kept. `traceparent` replaces the task's.

    Raise PayloadUnusable if the payload is not JSON.
    """
    line = _TaskLine(
        task_id=message.id,
        type=message.type,
        payload=msgspec.Raw(_one_line(message.payload)),
        retry_count=message.retried,
        max_retry=message.retry,
        queue=message.queue,
        attempt=attempt,
        request_id=message.headers.get(REQUEST_ID, ""),
        traceparent=traceparent or message.headers.get(TRACEPARENT, ""),
    )
    return _encoder.encode(line) + b"\n"


def add_deadline(line: bytes, deadline_s: float) -> bytes:
    """Return a task's line with the Unix time at which its run ends."""
    return line[:-2] + b',"deadline":%.3f}\n' % deadline_s


def encode_batch(lines: Sequence[bytes]) -> bytes:
    """Return the line that sends several tasks, of which these are the lines."""
    return b'{"batch":[%b]}\n' % b",".join(line[:-1] for line in lines)


def encode_cancel(task_id: str) -> bytes:
    return _encoder.encode({"control": "cancel", "task_id": task_id}) + b"\n"


def _one_line(payload: bytes) -> bytes:
    """Return a JSON payload without line breaks. Raise PayloadUnusable."""
    if not payload:
        return b"null"
    try:
        check_depth(payload)
        _check_json(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadUnusable(f"the payload is not JSON: {describe_error(error, payload)}") from error
    if not is_text(payload):
        raise PayloadUnusable("the payload is not UTF-8")
    if b"\n" in payload or b"\r" in payload:
        # In valid JSON, they occur only between tokens: within strings they are escaped.
        return payload.replace(b"\n", b" ").replace(b"\r", b" ")
    return payload
