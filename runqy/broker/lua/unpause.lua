#!lua flags=allow-oom
-- Resume a queue, and wake workers for its pending tasks.
-- KEYS paused pause_details pending idle
-- ARGV queue now_ms
-- RETURNS 1 resumed, 0 it was not paused
-- USES wake
local was_paused = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
local waiting = redis.call('LLEN', KEYS[3])
if waiting > 0 then
  wake(KEYS[4], waiting, ARGV[1], tonumber(ARGV[2]))
end
return was_paused
