-- Return how many more tasks may wait in a queue; a limit of 0 is unlimited.
local function waiting_capacity(limit, pending, scheduled, retry)
  if limit == 0 then
    return math.huge
  end
  return limit - redis.call('LLEN', pending) - redis.call('ZCARD', scheduled) - redis.call('ZCARD', retry)
end
