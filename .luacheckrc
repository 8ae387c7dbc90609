-- Scripts for the host: it looks up hook functions by name among the globals of a script's own
-- environment, and hands over values in declared globals (engine/core/hooks.def and globals.def).  Those
-- names, read from there, and no others, may be global, each in the script they belong to.
std = "lua54"
max_line_length = 120

local function rows(path, pattern)
  local found = {}
  local f = assert(io.open(path))
  for script, name in f:read("*a"):gmatch(pattern) do
    found[script] = found[script] or {}
    table.insert(found[script], name)
  end
  f:close()
  return found
end

local functions = rows("engine/core/hooks.def", 'HOOK%([%w_]+,%s*"([%w_]+)",%s*"([%w_]*)"')
local shared = rows("engine/core/globals.def", 'HOOK_GLOBAL%("([%w_]+)",%s*"([%w_]+)"')

read_globals = {"VPOP3", "VPOP3Net", "mail", "default"}
for script, names in pairs(functions) do
  local allowed = {}
  for _, name in ipairs(names) do
    if name ~= "" then
      allowed[#allowed + 1] = name
    end
  end
  for _, name in ipairs(shared[script] or {}) do
    allowed[#allowed + 1] = name
  end
  for _, folder in ipairs{"lua/", "examples/scripts/"} do
    files[folder .. script .. ".lua"] = {globals = allowed}
  end
end

-- The tests run in the program itself (moonpost script test).
files["tests/lua"] = {read_globals = {"describe", "it", "host"}}
files["tests/compat"] = {read_globals = {"describe", "it", "host"}}
