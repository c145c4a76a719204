-- Notify up to `count` idle workers, the last registered first, that a queue has tasks. Workers write the names of their
-- channels. Other names are ignored, because the caller may publish to channels that the worker may not.
local function wake(idle, count, queue, now_ms)
  local popped = redis.call('ZPOPMAX', idle, count)
  for i = 1, #popped, 2 do
    if tonumber(popped[i + 1]) < now_ms then
      redis.call('DEL', idle) -- the remaining workers expired even earlier
      return
    end
    if string.sub(popped[i], 1, 11) == 'runqy:wake:' then
      redis.call('PUBLISH', popped[i], queue)
    end
  end
end
