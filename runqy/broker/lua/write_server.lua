#!lua flags=allow-oom
-- Replace the data of a worker process and its tasks for asynq's tools.
-- KEYS server workers
-- ARGV ttl_s server_info running*
-- RETURNS nothing
-- `running` is id, WorkerInfo, id, WorkerInfo, ...
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[1])
redis.call('DEL', KEYS[2])
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if #ARGV > 2 then
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
return false
