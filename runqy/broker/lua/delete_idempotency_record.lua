#!lua flags=allow-oom
-- Delete the record of a batch, so that its idempotency key can be used again, unless a task of it was stored.
-- A part whose reply was lost may have been stored, and the same request may be repeated meanwhile.
-- KEYS record
-- ARGV request_token
-- RETURNS 1 deleted, 0 it has a stored task, belongs to another request or does not exist
local fields = redis.pcall('HGETALL', KEYS[1])
local request_token = nil
for i = 1, fields.err and 0 or #fields, 2 do
  if fields[i] == 'request_token' then
    request_token = fields[i + 1]
  elseif string.sub(fields[i], 1, 9) == 'outcomes:' then
    local is_json, outcomes = pcall(cjson.decode, fields[i + 1])
    if not is_json or type(outcomes) ~= 'table' then
      return 0
    end
    for _, outcome in ipairs(outcomes) do
      if outcome == 1 then
        return 0
      end
    end
  end
end
if request_token ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
