-- Return whether a task is claimed for a move with a token. A claim starts with its token and a space.
local function is_claimed(claims, id, token)
  local claim = redis.call('HGET', claims, id)
  return claim and string.sub(claim, 1, #token + 1) == token .. ' '
end
