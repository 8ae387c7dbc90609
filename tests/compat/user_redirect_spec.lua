-- user_redirect.lua and UserManager.lua in Lua 5.2 idiom.

local script = [[
if Size > 1024 * 1024 and string.find(string.lower(Subject), "report") then
  BigRedirect = {Target = "archive", Threshold = 1024, Copy = true, Bigger = true}
elseif table.getn(Headers) == 0 then
  SmallRedirect = {Target = "trash", Threshold = 1, Copy = false, Bigger = false}
end
if MailFrom == "" then ShouldForward = false end
Assistants = Assistants .. ";" .. User .. "-assistant"
RedirectToAssistant = not RedirectToAssistant
Forwards = "elsewhere@example.com"
UseForwards = true
SendToNormalRecipient = true
]]

local function run(env)
  local what, text = env:call("")
  assert(what == "done", text)
end

local function prepared(text, more)
  local env = host.env("user_redirect", text)
  local all = {User = "anna", MailFrom = "x@y", Subject = "Weekly Report", Size = 2000000,
               Headers = {"Subject: Weekly Report"}, Assistants = "bob", RedirectToAssistant = false, Forwards = "",
               UseForwards = false, SendToNormalRecipient = false, ShouldForward = true}
  for k, v in pairs(more or {}) do all[k] = v end
  for k, v in pairs(all) do env:set(k, v) end
  return env
end

describe("user_redirect in Lua 5.2 idiom", function()
  it("changes the message's way", function()
    local env = prepared(script)
    run(env)
    assert(env:get("Assistants") == "bob;anna-assistant" and env:get("RedirectToAssistant") == true)
    assert(env:get("Forwards") == "elsewhere@example.com" and env:get("UseForwards") == true)
    assert(env:get("SendToNormalRecipient") == true and env:get("ShouldForward") == true)
    local big = env:get("BigRedirect")
    assert(big.Target == "archive" and big.Threshold == 1024 and big.Copy and big.Bigger)
    assert(env:get("SmallRedirect") == nil)
  end)

  it("sees small mail and the null sender", function()
    local env = prepared(script, {Size = 10, Headers = {}, MailFrom = ""})
    run(env)
    assert(env:get("ShouldForward") == false and env:get("SmallRedirect").Target == "trash")
  end)
end)

describe("the shipped user_redirect", function()
  local cases = {
    -- hours, now, used?
    {"", "20261121031500", true}, {"-", "20261121031500", true},
    {"09:00-17:00", "20261121031500", false}, {"09:00-17:00", "20261121120000", true},
    {"22:00-06:00", "20261121031500", true}, {"22:00-06:00", "20261121120000", false},
    {"20261101-20261130", "20261121031500", true}, {"20261101-20261120", "20261121031500", false},
    {"20261122-", "20261121031500", false}, {"-20261121", "20261121031500", true},
    {"20161013 12:00-20161017 15:00", "20161015140000", true},
    {"20161013 12:00-20161017 15:00", "20161015110000", false},
    {"20161013 12:00-20161017 15:00", "20161018130000", false},
    {"nonsense", "20261121031500", true},
  }
  it("keeps the hours of forwards and assistants", function()
    for _, case in ipairs(cases) do
      local env = prepared(nil, {ForwardHours = case[1], AssistantHours = case[1], Now = case[2],
                                 UseForwards = true, Forwards = "x@y"})
      run(env)
      assert(env:get("UseForwards") == case[3], case[1] .. " at " .. case[2])
      assert((env:get("Assistants") == "bob") == case[3], case[1])
    end
  end)

  it("leaves quarantined mail alone when told so", function()
    local env = prepared(nil, {Quarantined = true, SkipIfQuarantined = true})
    run(env)
    assert(env:get("ShouldForward") == false)
    env = prepared(nil, {Quarantined = true})
    run(env)
    assert(env:get("ShouldForward") == true)
  end)
end)

describe("UserManager in Lua 5.2 idiom", function()
  local text = [[
    function TranslateUsername(protocol, submitted)
      local map = {info = "anna"}
      if protocol == "POP3" then return map[submitted] end
      if protocol == "IMAP4" then return (string.gsub(submitted, "%%", "@")) end
    end
  ]]
  it("translates, or leaves a name", function()
    local env = host.env("usermanager", text)
    local _, name = env:call("TranslateUsername", "POP3", "info")
    assert(name == "anna")
    _, name = env:call("TranslateUsername", "POP3", "other")
    assert(name == nil)
    _, name = env:call("TranslateUsername", "IMAP4", "a%b")
    assert(name == "a@b")
  end)
end)
