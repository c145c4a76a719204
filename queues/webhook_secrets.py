"""The secrets of webhooks: how they are made and sign, and those of queues, for what they send and receive."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from enum import StrEnum

import structlog
from django.db import transaction
from django.utils import timezone

from queues.catalog import AllowedQueues
from queues.definitions import ReleaseMode
from queues.models import Queue
from runqy.audit.operations import REDACTED, record
from runqy.errors import (
    QueueNotFound,
    RequestInvalid,
    VaultLocked,
    VaultUnavailable,
    WebhookInvalid,
    WebhookSecretShown,
)
from vaults.crypto import get_keyring
from vaults.models import SealedSecret
from vaults.sealed_secrets import replace_secret, show_once, store_secret

log = structlog.get_logger(__name__)

PREFIX = "whsec_"
_SECRET_BYTES = 32


class QueueSecret(StrEnum):
    """The secrets of a queue. The values are its columns."""

    WEBHOOK = "webhook_secret"
    """Signs the webhooks of its tasks."""
    GIT_HOOK = "git_hook_secret"
    """Signs the pushes to its repository."""

    @property
    def purpose(self) -> str:
        return self.value.replace("_", " ")


def generate_secret() -> str:
    """Return a secret as the Standard Webhooks specification writes it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def decode_secret(secret: str) -> bytes:
    """Return the key of a secret: its base64, also without `whsec_` or padding. Raise ValueError with the reason."""
    try:
        # As the specification's library for Python reads it, so that both have the same key.
        key = base64.b64decode(secret.removeprefix(PREFIX) + "==")
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is not base64") from error
    if not key:
        raise ValueError("it is empty")
    return key


def sign(body: bytes, *, message_id: str, timestamp_s: int, secrets: Iterable[str]) -> str:
    """Return the header `webhook-signature`: for each secret the HMAC-SHA256 of id, timestamp and body."""
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    digests = [hmac.new(decode_secret(secret), signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def create_secret(*, is_shown: bool) -> tuple[SealedSecret, str]:
    """Store a new secret of an endpoint, and return it in plain text too. Raise VaultLocked."""
    text = generate_secret()
    return store_secret(QueueSecret.WEBHOOK.purpose, text, is_shown=is_shown), text


def create_queue_secrets(row: Queue) -> None:
    """Store the secrets that a queue needs and does not have, without saving the queue. Raise VaultLocked."""
    if row.webhook_hosts and row.webhook_secret is None:
        row.webhook_secret = _create(QueueSecret.WEBHOOK, field="webhook_hosts")
    if row.release == ReleaseMode.PUSH and row.git_hook_secret is None:
        row.git_hook_secret = _create(QueueSecret.GIT_HOOK, field="deployment.release")


def rotate_secret(row: SealedSecret) -> str:
    """Replace a secret by a new one, which is returned. Raise VaultLocked."""
    text = generate_secret()
    replace_secret(row, text)
    return text


def show_queue_secret(
    queue: str, *, which: QueueSecret = QueueSecret.WEBHOOK, allowed_queues: AllowedQueues = None
) -> str:
    """Return a secret of a queue, this once.

    Raise QueueNotFound, WebhookInvalid for a queue without webhook_hosts, RequestInvalid for one that no push releases,
    WebhookSecretShown, VaultLocked, VaultUnavailable.
    """
    with transaction.atomic():
        name, secret = _get_secret(queue, which, allowed_queues)
        text = show_once(secret)
        if text is None:
            raise WebhookSecretShown
        record(action=f"queue.{which}_shown", object_kind="queue", object_name=name)
    return text


def rotate_queue_secret(
    queue: str, *, which: QueueSecret = QueueSecret.WEBHOOK, allowed_queues: AllowedQueues = None
) -> str:
    """Give a queue a new secret and return it. For 24 hours both are valid.

    Raise QueueNotFound, WebhookInvalid, RequestInvalid, VaultLocked.
    """
    with transaction.atomic():
        name, secret = _get_secret(queue, which, allowed_queues)
        text = rotate_secret(secret)
        record(action=f"queue.{which}_rotated", object_kind="queue", object_name=name, changes={which.value: REDACTED})
    return text


def find_git_hook_secrets(queue: str) -> list[str]:
    """Return the secrets that may sign a push to a queue: none if there is no such queue, or it never took pushes.

    Raise VaultLocked, for any name: senders that are not known must not learn which queues there are.
    """
    get_keyring()
    row = Queue.objects.select_related("git_hook_secret").filter(name=queue).only("git_hook_secret").first()
    try:
        return row.git_hook_secret.unseal_valid(timezone.now()) if row and row.git_hook_secret else []
    except VaultUnavailable as error:
        log.warning("git_hook_secret_unreadable", queue=queue, error=error.detail)
        return []


def _create(which: QueueSecret, *, field: str) -> SealedSecret:
    try:
        return store_secret(which.purpose, generate_secret())
    except VaultLocked as error:
        raise VaultLocked(errors=[f"{field}: {error.detail}"]) from error


def _get_secret(queue: str, which: QueueSecret, allowed_queues: AllowedQueues) -> tuple[str, SealedSecret]:
    found = Queue.objects.select_related(which.value).filter(name=queue).first()
    if found is None or (allowed_queues is not None and queue not in allowed_queues):
        raise QueueNotFound(f"No queue {queue[:128]!r}.")
    secret: SealedSecret | None = getattr(found, which.value)
    if which is QueueSecret.WEBHOOK and (secret is None or not found.webhook_hosts):
        raise WebhookInvalid(f"The queue {found.name} has no webhook_hosts, so there are no webhooks to sign.")
    if secret is None or (which is QueueSecret.GIT_HOOK and found.release != ReleaseMode.PUSH):
        raise RequestInvalid(f"The queue {found.name} takes no pushes: set deployment.release to push first.")
    return found.name, secret
