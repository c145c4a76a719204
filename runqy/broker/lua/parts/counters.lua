-- Count finished attempts in a day's counter, which expires.
local function count_day(key, count, expires_at)
  if redis.call('INCRBY', key, count) == count then
    redis.call('EXPIREAT', key, expires_at)
  end
end

-- Count successes. A total that would exceed int64 starts again, as asynq's does.
local function count_successes(count, processed, processed_day, expires_at)
  count_day(processed_day, count, expires_at)
  local total = redis.pcall('INCRBY', processed, count)
  if type(total) == 'table' and string.find(total.err, 'overflow', 1, true) then
    redis.call('SET', processed, count)
  elseif type(total) == 'table' then
    error(total.err)
  end
end

-- Count a failure, which also counts as processed. Both totals start again together.
local function count_failure(processed, failed, processed_day, failed_day, expires_at)
  count_day(processed_day, 1, expires_at)
  count_day(failed_day, 1, expires_at)
  if redis.call('GET', processed) == '9223372036854775807' then
    redis.call('SET', processed, 1)
    redis.call('SET', failed, 1)
  else
    redis.call('INCR', processed)
    redis.call('INCR', failed)
  end
end
