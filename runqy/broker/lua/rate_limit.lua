#!lua
-- Allow a request unless the limit of its window is reached (GCRA: the allowance is restored evenly).
-- A call repeated after a lost reply counts as two requests.
-- KEYS rate
-- ARGV now_us window_us limit
-- RETURNS 1 allowed or 0, how many more are allowed now, us until the next is allowed (0: now), us until all are
local now, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local each = math.floor(window / tonumber(ARGV[3]))
window = each * tonumber(ARGV[3]) -- in whole us, so that rounding loses nothing
local spent = math.max((tonumber(redis.call('GET', KEYS[1])) or now) - now, 0)
if spent > window then
  spent = window -- a clock ahead of this one, or a longer window before, delays no request by more than one window
end
local is_allowed = 0
if spent + each <= window then
  is_allowed = 1
  spent = spent + each
  redis.call('SET', KEYS[1], string.format('%.0f', now + spent), 'PX', math.ceil(spent / 1000))
end
local remaining = math.floor((window - spent) / each)
local wait = 0
if remaining < 1 then
  wait = spent + each - window
end
return {is_allowed, remaining, wait, spent}
