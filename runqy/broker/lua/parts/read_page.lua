-- Read the tasks at the front of `found`, pairs of id and position: up to `limit` of them and about `max_bytes`.
-- Ids whose task is gone or in another state are skipped.
-- Return how many were scanned, and for each task id, position, fields and values.
local function read_page(found, task_prefix, state, limit, max_bytes)
  local page, bytes, looked_at = {}, 0, 0
  for i = 1, math.min(#found, limit) do
    local task = task_prefix .. found[i][1]
    bytes = bytes + redis.call('HSTRLEN', task, 'msg') + redis.call('HSTRLEN', task, 'result')
    if i > 1 and bytes > max_bytes then
      break
    end
    if redis.call('HGET', task, 'state') == state then
      page[#page + 1] = {found[i][1], found[i][2], redis.call('HGETALL', task)}
    end
    looked_at = i
  end
  return looked_at, page
end
