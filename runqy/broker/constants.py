"""Time spans and limits that all processes on the same Redis must share."""

LEASE_S = 30
"""The duration of a lease. Go's recoverer sees only the score that results from it."""

RECOVERY_GRACE_S = 30
"""How long an expired lease is left alone at most, in case the clocks of worker and maintenance differ."""

HEARTBEAT_S = 5
HEARTBEAT_TTL_S = 2 * HEARTBEAT_S
POLL_S = 1.0
"""How often an idle worker polls: asynq's producers do not wake workers, and a wake-up can be lost."""

COUNTER_TTL_S = 90 * 24 * 3600
ARCHIVE_MAX_AGE_S = 90 * 24 * 3600
ARCHIVE_MAX_TASKS = 10_000
"""asynq's limit. A server may have another one, which workers receive when they register."""
LARGE_RESULT_BYTES = 1 << 20
"""Results up to this size are stored even if their queue holds more than its share of the memory."""
BULK_BYTES = 64 * 1024
"""Larger requests have a connection of their own, so that they do not delay small ones."""
LARGE_BYTES = 2 << 20
"""Larger requests are sent to a server one at a time, on a connection of their own."""
LARGE_BYTES_PER_S = 8 << 20
"""The rate at which a server on a busy machine is expected to process large requests."""
BATCH_MAX_TASKS = 500
BATCH_MAX_BYTES = 1 << 20
"""The limits of one script call, so that it does not block Redis for long."""
QUEUE_FULL_RETRY_S = 5
"""When a client may try again to enqueue on a queue that has no room."""
