-- What an address is: asked for each recipient.
--
-- resolve returns a list of targets:
--   {kind = "local", user = NAME}
--   {kind = "remote", address = ADDRESS, route = ""}     to the outqueue, by domain
--   {kind = "remote", address = ADDRESS, route = HOST}   "[user:pass@]host[:port]": LAN forwarding
--   {kind = "discard"}                                   accepted and thrown away
--   {kind = "unknown", address = ADDRESS}                alone in the list: refused
--
-- The rules, in this order (the first that finds anything wins):
--   1. all mappings that match the address;
--   2. the user or group of that name, where the domain is local;
--   3. all ~@domain mappings that match;
--   4. unknown in a local domain, remote elsewhere.
-- The address book does these in C in one step.  A site's routing.lua changes an answer like this:
--
--   function resolve(address, session)
--     if address:match("^ticket%-%d+@") then return {{kind = "local", user = "helpdesk"}} end
--     return default(address, session)
--   end

-- The main administrator's mailbox, or what was found when there is none of that name.
local function administrator(found)
  local name = VPOP3.GetSetting("server.postmaster")
  local account = name and name ~= "" and mail.index.account(name)
  if account then
    return {{kind = "local", user = account.name}}
  end
  return found
end

function resolve(address, session)
  local local_part = address:match("^([^@]+)@") or address
  local targets, text = mail.index.resolve(address, session.local_sender)
  if not targets then
    error("the address book cannot be asked now: " .. tostring(text), 0)
  end
  if #targets == 1 and targets[1].kind == "unknown" then
    -- RFC 5321 4.5.1 and RFC 2142: these two are always there.
    local name = local_part:lower()
    if name == "postmaster" or name == "abuse" then
      return administrator(targets)
    end
  end
  return targets
end
