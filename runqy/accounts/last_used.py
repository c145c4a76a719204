"""When keys were last used: recorded in memory, then in Redis, so that no request waits for the database.

Each process writes to Redis at most once a minute for each key. Maintenance moves the times into the rows.
"""

from datetime import UTC, datetime

import structlog

from runqy import clock
from runqy.accounts.models import ApiKey
from runqy.broker.operation import Operation, ask_all
from runqy.broker.streams import write_behind
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.redis_connection import get_broker, run_blocking

log = structlog.get_logger()

INTERVAL_S = 60.0

_used_at_s: dict[str, int] = {}  # id of a key -> Unix s of its last use that is not in Redis yet
_flushed_at: dict[str, float] = {}  # id of a key -> monotonic s at which its use was last written to Redis


def record_use(key_id: str) -> None:
    """Record in memory that a key is used now. Keys of the environment have no id, and are ignored."""
    if key_id:
        _used_at_s[key_id] = clock.now_ns() // 1_000_000_000


def flush_when_due(key_id: str) -> None:
    """Write the recorded uses to Redis if that of this key is due. Blocks."""
    if is_due(key_id):
        run_blocking(flush_uses())


def is_due(key_id: str) -> bool:
    """Return whether the use of a key is to be written to Redis now."""
    return key_id in _used_at_s and clock.monotonic_s() - _flushed_at.get(key_id, float("-inf")) >= INTERVAL_S


def pop_due_uses() -> dict[str, int]:
    """Return the uses, as Unix s by id, that are to be written to Redis now: each key at most once a minute."""
    due = {key_id: used_at_s for key_id, used_at_s in list(_used_at_s.items()) if is_due(key_id)}
    for key_id in due:
        _flushed_at[key_id] = clock.monotonic_s()
        _used_at_s.pop(key_id, None)
    return due


def flush_uses() -> Operation[None]:
    """Write the uses that are due to Redis in one round trip. A failure is logged, and its uses are lost."""
    requests = [write_behind.record_key_use(key_id, now_s=used_at_s) for key_id, used_at_s in pop_due_uses().items()]
    try:
        outcomes = yield from ask_all(requests)
    except BrokerUnavailable as error:
        outcomes = [error]
    failed = next((outcome for outcome in outcomes if isinstance(outcome, RunqyError)), None)
    if failed is not None:
        log.warning("key_use_not_noted", error=failed.detail)


def store_key_uses() -> int:
    """Move the uses from Redis into the rows; return how many rows changed. Raise BrokerUnavailable."""
    changed = 0
    for key_id, used_s in get_broker().run(write_behind.read_key_uses()).items():
        used_at = datetime.fromtimestamp(used_s, UTC)
        # Several processes write to Redis in any order: a row may have a later use already.
        later = ApiKey.objects.filter(pk=key_id).exclude(last_used_at__gte=used_at)
        changed += later.update(last_used_at=used_at)
    return changed


def reset() -> None:
    """Forget all uses. For tests, in which different keys have the same ids."""
    _used_at_s.clear()
    _flushed_at.clear()
