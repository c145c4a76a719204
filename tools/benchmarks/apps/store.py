"""The script of the bare application and of raw calls: the least that enqueueing can do."""

from runqy.broker.scripts import Script

STORE = Script(
    "store",
    """-- Store a task and push its id onto a list.
-- KEYS task pending
-- ARGV task_id message now_ns
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'msg', ARGV[2], 'state', 'pending', 'pending_since', ARGV[3])
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
""",
)
