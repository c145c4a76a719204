#!lua flags=no-writes,allow-stale
-- Return one task.
-- KEYS task lease scheduled retry archived completed
-- ARGV queue id max_bytes wants_payload
-- RETURNS queue, score in the index of its state or '', fields and values; nil if there is no such task; the size of
--   one whose message and result have more than `max_bytes`
-- USES read_task
return read_task(ARGV[1], KEYS[1], ARGV[2],
  {active = KEYS[2], scheduled = KEYS[3], retry = KEYS[4], archived = KEYS[5], completed = KEYS[6]}, tonumber(ARGV[3]),
  ARGV[4] == '1')
