"""Time spans and limits that all processes on the same Redis must share."""

LEASE_S = 30
"""The duration of a lease. Go's recoverer sees only the score that results from it."""

RECOVERY_GRACE_S = 30
"""How long after its end an expired lease is left alone, to allow for clocks that disagree."""

HEARTBEAT_S = 5
HEARTBEAT_TTL_S = 2 * HEARTBEAT_S
POLL_S = 1.0
"""How often an idle worker polls, for producers that do not wake workers."""

COUNTER_TTL_S = 90 * 24 * 3600
ARCHIVE_MAX_AGE_S = 90 * 24 * 3600
ARCHIVE_MAX_TASKS = 10_000
"""The same as asynq's. The server may use another number, which workers receive when they register."""
LARGE_RESULT_BYTES = 1 << 20
"""Smaller results are stored whatever their queue holds."""
BULK_BYTES = 64 * 1024
"""Requests above this size must not delay small ones, nor be taken for a sign of how these fare."""
BATCH_MAX_TASKS = 500
BATCH_MAX_BYTES = 1 << 20
"""The limits of one script call, so that it does not block Redis for long."""
