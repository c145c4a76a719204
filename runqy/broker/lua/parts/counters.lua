-- Count a finished attempt in a day's counter, which expires, and return nothing.
local function count_day(key, expires_at)
  if redis.call('INCR', key) == 1 then
    redis.call('EXPIREAT', key, expires_at)
  end
end

-- Count a success; the total starts again at 1 where it would leave int64.
local function count_success(processed, processed_day, expires_at)
  count_day(processed_day, expires_at)
  if redis.call('GET', processed) == '9223372036854775807' then
    redis.call('SET', processed, 1)
  else
    redis.call('INCR', processed)
  end
end

-- Count a failure, which counts as processed too; both totals start again together.
local function count_failure(processed, failed, processed_day, failed_day, expires_at)
  count_day(processed_day, expires_at)
  count_day(failed_day, expires_at)
  if redis.call('GET', processed) == '9223372036854775807' then
    redis.call('SET', processed, 1)
    redis.call('SET', failed, 1)
  else
    redis.call('INCR', processed)
    redis.call('INCR', failed)
  end
end
