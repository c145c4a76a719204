"""Owns the spans that every process working on the same Redis has to agree on."""

LEASE_S = 30
"""How long a take or an extension holds a task. Go recoverers look only at the score this makes."""

RECOVERY_GRACE_S = 30
"""How long after its end a lease is left alone, for clocks that disagree."""

HEARTBEAT_S = 5
HEARTBEAT_TTL_S = 2 * HEARTBEAT_S
POLL_S = 1.0
"""How often an idle worker looks by itself, for producers that wake nobody."""

COUNTER_TTL_S = 90 * 24 * 3600
ARCHIVE_MAX_AGE_S = 90 * 24 * 3600
ARCHIVE_MAX_TASKS = 10_000
BATCH_MAX_TASKS = 500
BATCH_MAX_BYTES = 1 << 20
"""A script call carries no more than these, so that Redis is never blocked for long."""
