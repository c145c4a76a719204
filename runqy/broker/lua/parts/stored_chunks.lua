-- Return the number of a run's chunks by the field `chunks` of its task, nil if that is of another run. A task without
-- the field has none yet: any chunks belong to an earlier run, or to an earlier task with the same id.
local function stored_chunks(field, run_number)
  local of_run, count = string.match(field or '', '^(%d+):(%d+)$')
  return of_run and tonumber(of_run) == tonumber(run_number) and tonumber(count) or nil
end
