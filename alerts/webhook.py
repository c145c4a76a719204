"""Send alerts to the webhook, signed as the Standard Webhooks specification describes."""

import asyncio
import base64
import hashlib
import hmac
import socket
from functools import partial
from typing import Any

import httpx2
from django.conf import settings
from django.utils import timezone

from alerts.models import AlertDelivery
from alerts.operations import claim_delivery, record_delivered, record_failed_attempt
from alerts.queries import list_due_deliveries
from alerts.serializers import AlertMessageSerializer
from runqy.api.renderers import encode_json
from runqy.concurrency.threads import run_in_thread

BATCH_SIZE = 20
TIMEOUT_S = 10.0
"""The time for a whole attempt, from the look-up of the host to the head of the response."""
_BASE64_PREFIX = "whsec_"


def deliver_due() -> int:
    """Send the deliveries that are due; return how many were accepted."""
    if not settings.RUNQY_ALERT_WEBHOOK_URL:
        return 0
    return sum(_deliver(delivery) for delivery in list_due_deliveries(timezone.now(), limit=BATCH_SIZE))


def sign(body: bytes, *, message_id: str, timestamp_s: int, secret: str) -> str:
    """Return the header `webhook-signature`: the HMAC-SHA256 of id, timestamp and body."""
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    digest = hmac.new(decode_secret(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def decode_secret(secret: str) -> bytes:
    """Return the key of a secret: the base64 after `whsec_`, or the text itself. Raise ValueError."""
    if secret.startswith(_BASE64_PREFIX):
        return base64.b64decode(secret.removeprefix(_BASE64_PREFIX), validate=True)
    return secret.encode()


def _deliver(delivery: AlertDelivery) -> bool:
    """Send one delivery, unless another process does; return whether it was accepted."""
    now = timezone.now()
    if not claim_delivery(delivery, now):
        return False
    message_id = f"alert_{delivery.alert_id}_{delivery.event}"
    body = encode_json(AlertMessageSerializer(delivery).data)
    with asyncio.Runner(loop_factory=_Loop) as runner:
        error = runner.run(_post(body, message_id, int(now.timestamp())))
    if error is not None:
        record_failed_attempt(delivery, error, now)
        return False
    record_delivered(delivery)
    return True


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that looks up hosts on threads that are never joined.

    asyncio's own look-up runs in the loop's executor. Closing the loop joins its threads, which takes a minute with a
    resolver that does not respond.
    """

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await run_in_thread(partial(socket.getaddrinfo, host, port, **options))


async def _post(body: bytes, message_id: str, timestamp_s: int) -> str | None:
    """Send a body, without following redirects or reading the response; return why it was not accepted, or None.

    On an event loop, because httpx limits only each read and write: a response that trickles in could take hours.
    """
    headers = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
    if secret := settings.RUNQY_ALERT_WEBHOOK_SECRET:
        headers["webhook-signature"] = sign(body, message_id=message_id, timestamp_s=timestamp_s, secret=secret)
    url = settings.RUNQY_ALERT_WEBHOOK_URL
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx2.AsyncClient(timeout=None) as client,
            client.stream("POST", url, content=body, headers=headers, follow_redirects=False) as response,
        ):
            return None if response.is_success else f"The webhook responded with status {response.status_code}."
    except TimeoutError:
        return f"The webhook did not respond within {TIMEOUT_S:g} s."
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return str(error) or type(error).__name__
