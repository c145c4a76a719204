-- Return whether a run may still write what it printed or streamed: also after its end, until the task is pending again.
local function has_lease(lease_token, owner, finished_by, state)
  return owner == lease_token or (not owner and finished_by == lease_token and state ~= 'pending')
end
