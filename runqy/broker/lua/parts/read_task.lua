-- Return a number of the protobuf format at a position, and the position after it.
local function read_varint(message, position)
  local number, scale, byte = 0, 1, nil
  repeat
    byte = string.byte(message, position) or 0
    number, scale, position = number + byte % 128 * scale, scale * 128, position + 1
  until byte < 128 or scale > 2 ^ 35
  return number, position
end

-- Return a message without its payload, its second field. Encoders write the type, the first one, before it; of a
-- message with another order nothing is left out.
local function without_payload(message)
  local position, length = 1, nil
  while string.byte(message, position) == 10 do
    length, position = read_varint(message, position + 1)
    position = position + length
  end
  if string.byte(message, position) ~= 18 then
    return message
  end
  local before = string.sub(message, 1, position - 1)
  length, position = read_varint(message, position + 1)
  return before .. string.sub(message, position + length)
end

-- Return a task's queue, its score in the index of its state (or ''), and its fields; nil if there is no task, and the
-- size of one whose message and result have more than `max_bytes`. Without `wants_payload`, the message has none.
local function read_task(queue, task, id, indexes, max_bytes, wants_payload)
  local size = redis.call('HSTRLEN', task, 'result') + (wants_payload and redis.call('HSTRLEN', task, 'msg') or 0)
  if size > max_bytes then
    return size
  end
  local fields = redis.call('HGETALL', task)
  if #fields == 0 then
    return nil
  end
  for i = 1, wants_payload and 0 or #fields, 2 do
    if fields[i] == 'msg' then
      fields[i + 1] = without_payload(fields[i + 1])
    end
  end
  local index = indexes[redis.call('HGET', task, 'state')]
  return {queue, index and redis.call('ZSCORE', index, id) or '', fields}
end
