#!lua
-- Let a request pass unless as many have passed within the window as may (GCRA: they come back one by one, evenly).
-- A call repeated after a lost reply counts as two requests.
-- KEYS rate
-- ARGV now_us window_us most
-- RETURNS 1 passes or 0, how many more may pass now, us until one may pass (0: now), us until all may
local now, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local each = math.floor(window / tonumber(ARGV[3]))
window = each * tonumber(ARGV[3]) -- in whole us, so that nothing is lost to rounding
local spent = math.max((tonumber(redis.call('GET', KEYS[1])) or now) - now, 0)
if spent > window then
  spent = window -- a clock ahead of this one, or a longer window before, holds nobody up for more than one window
end
local passes = 0
if spent + each <= window then
  passes = 1
  spent = spent + each
  redis.call('SET', KEYS[1], string.format('%.0f', now + spent), 'PX', math.ceil(spent / 1000))
end
local left = math.floor((window - spent) / each)
local wait = 0
if left < 1 then
  wait = spent + each - window
end
return {passes, left, wait, spent}
