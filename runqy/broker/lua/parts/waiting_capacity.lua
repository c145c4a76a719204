-- Return how many more tasks may wait to run in a queue; 0 as a limit: any number.
local function waiting_capacity(limit, pending, scheduled, retry)
  if limit == 0 then
    return math.huge
  end
  return limit - redis.call('LLEN', pending) - redis.call('ZCARD', scheduled) - redis.call('ZCARD', retry)
end
