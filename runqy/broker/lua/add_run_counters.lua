#!lua flags=allow-oom
-- Add to counters of a queue's runs.
-- KEYS counters
-- ARGV fields_and_amounts*
-- RETURNS nothing
-- USES add_to_counter
for i = 1, #ARGV, 2 do
  add_to_counter(KEYS[1], ARGV[i], ARGV[i + 1])
end
return false
