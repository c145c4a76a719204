-- Return a time as a number of ns; nil if it is unknown. Go's runqy-worker writes seconds.
local function in_ns(text)
  local time = tonumber(text or '')
  return time and time < 1e12 and time * 1e9 or time
end
