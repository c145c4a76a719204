#!lua flags=no-writes,allow-stale
-- Return one task.
-- KEYS task lease scheduled retry archived completed
-- ARGV queue id
-- RETURNS queue, score in the index of its state or '', fields and values; nil if there is no such task
-- USES read_task
return read_task(ARGV[1], KEYS[1], ARGV[2],
  {active = KEYS[2], scheduled = KEYS[3], retry = KEYS[4], archived = KEYS[5], completed = KEYS[6]})
