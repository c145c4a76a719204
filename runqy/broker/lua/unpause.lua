#!lua flags=allow-oom
-- Let a queue hand out tasks again, and wake workers for those that wait.
-- KEYS paused pending idle
-- ARGV queue now_ms
-- RETURNS 1 goes on now, 0 it was not paused
-- USES wake
local was_paused = redis.call('DEL', KEYS[1])
local waiting = redis.call('LLEN', KEYS[2])
if waiting > 0 then
  wake(KEYS[3], waiting, ARGV[1], tonumber(ARGV[2]))
end
return was_paused
