-- Small text helpers:  local text = require "text"
local text = {}

-- Without blanks at both ends.
function text.trim(s)
  return (s:match("^%s*(.-)%s*$"))
end

-- List of the parts of s between separators (plain text, default ","), trimmed, empty ones left out.
function text.split(s, separator)
  local parts, from = {}, 1
  separator = separator or ","
  while true do
    local at, last = s:find(separator, from, true)
    local part = text.trim(s:sub(from, (at or 0) - 1))
    if part ~= "" then
      parts[#parts + 1] = part
    end
    if not at then
      return parts
    end
    from = last + 1
  end
end

function text.starts(s, prefix)
  return s:sub(1, #prefix) == prefix
end

function text.ends(s, suffix)
  return suffix == "" or s:sub(-#suffix) == suffix
end

-- Does s match a pattern with * and ?, without case?
function text.glob(pattern, s)
  local lua = pattern:lower():gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".")
  return s:lower():find("^" .. lua .. "$") ~= nil
end

return text
