"""The reference library of Standard Webhooks reads our secrets and verifies our signatures."""

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from queues.webhook_secrets import decode_secret, generate_secret, sign
from webhooks.messages import message_id


def test_the_reference_library_verifies_a_message() -> None:
    secret, old, body = generate_secret(), generate_secret(), '{"type":"task.completed","data":{"id":"ü"}}'
    now = int(time.time())
    headers = {
        "webhook-id": message_id("mail", "1"),
        "webhook-timestamp": str(now),
        "webhook-signature": sign(
            body.encode(), message_id=message_id("mail", "1"), timestamp_s=now, secrets=[secret, old]
        ),
    }

    for each in (secret, old):
        assert Webhook(each).verify(body, headers)["data"] == {"id": "ü"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace("ü", "u"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(generate_secret()).verify(body, headers)


@pytest.mark.parametrize("secret", ["whsec_c2VjcmV0", "c2VjcmV0IQ", "whsec_c2Vj-cmV0", "abcde", "whsec_", "ü"])
def test_a_secret_is_read_as_the_reference_library_reads_it(secret: str) -> None:
    body, now = b"{}", int(time.time())
    headers = {"webhook-id": "1", "webhook-timestamp": str(now)}
    try:
        reference = Webhook(secret)
    except Exception:  # noqa: BLE001 (it has no error of its own for wrong base64)
        with pytest.raises(ValueError, match="it is"):
            decode_secret(secret)
        return

    signature = sign(body, message_id="1", timestamp_s=now, secrets=[secret])

    assert reference.verify(body, {**headers, "webhook-signature": signature}) == {}


def test_parts_of_an_id_cannot_be_shifted() -> None:
    assert message_id("a", "bc") != message_id("ab", "c")
    assert message_id("a", "bc") == message_id("a", "bc")
