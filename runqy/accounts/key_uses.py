"""Remembers when keys were last used, in Redis first, so that no request waits for the database.

Each process tells Redis at most once a minute about a key; maintenance moves what it finds into the rows.
"""

from datetime import UTC, datetime

import structlog

from runqy import clock
from runqy.accounts.models import ApiKey
from runqy.broker import key_uses
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable

log = structlog.get_logger()

INTERVAL_S = 60.0

_told_at: dict[str, float] = {}


def note_use(key_id: str) -> None:
    """Tell Redis that a key was used, unless this process did so less than a minute ago."""
    now_s = clock.monotonic_s()
    if now_s - _told_at.get(key_id, float("-inf")) < INTERVAL_S:
        return
    _told_at[key_id] = now_s
    try:
        get_broker().run(key_uses.note_use(key_id, now_s=clock.now_ns() // 1_000_000_000))
    except BrokerUnavailable as error:
        log.warning("key_use_not_noted", error=error.detail)


def store_key_uses() -> int:
    """Move the noted uses into the rows; returns how many rows changed. Raises BrokerUnavailable."""
    changed = 0
    for key_id, used_s in get_broker().run(key_uses.read_uses()).items():
        used_at = datetime.fromtimestamp(used_s, UTC)
        later = ApiKey.objects.filter(pk=key_id).exclude(last_used_at__gte=used_at)
        changed += later.update(last_used_at=used_at)
    return changed
