-- Return whether the tasks of a state are listed in a sorted set that is named after it.
local function has_index(state)
  return state == 'scheduled' or state == 'retry' or state == 'archived' or state == 'completed'
end
