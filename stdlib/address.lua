-- Mail addresses:  local address = require "address"
local address = {}

-- Local part and domain (lower case); the domain is "" when there is none.
function address.split(a)
  local user, domain = a:match("^(.*)@([^@]*)$")
  if not user then
    return a, ""
  end
  return user, domain:lower()
end

function address.domain(a)
  local _, domain = address.split(a)
  return domain
end

-- The bare address of a header value such as "Anna <anna@example.com>".
function address.bare(value)
  return value:match("<([^<>]*)>%s*$") or value:match("^%s*(.-)%s*$")
end

-- The same mailbox, as far as can be told: domains compare without case, local parts too.
function address.same(a, b)
  return a:lower() == b:lower()
end

return address
