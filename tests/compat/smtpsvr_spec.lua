-- A SMTPSVR.LUA as administrators wrote it for Lua 5.2, with every documented function and global.

local script = [[
calls = {}
local function note(name, ...)
  table.insert(calls, name)
  local list = {...}
  for i = 1, table.getn(list) do note_last = list[i] end
end

function Start()
  note("Start")
  assert(type(IPAddress) == "string" and type(ServerID) == "number" and type(ServerName) == "string")
  assert(type(ServerPort) == "number" and type(ReverseDNS) == "string" and type(Country) == "string")
  assert(type(ValidClientAddress) == "boolean" and type(LocalClientAddress) == "boolean")
  assert(type(AllowRelay) == "boolean" and type(AuthenticationRequired) == "boolean")
  assert(type(AuthenticationAllowed) == "boolean")
  assert(type(Encryption) == "boolean" and type(EncryptionDetails) == "string")
  if string.find(IPAddress, "^192%.0%.2%.") ~= nil then
    ValidClientAddress = true
    LocalClientAddress = true
  end
  AllowRelay = not AllowRelay
  AuthenticationRequired = not AuthenticationRequired
  AuthenticationAllowed = not AuthenticationAllowed
  MaxLineLength = 2000
  AddUserAddresses = true
  CheckRBL = true
  RBLRejectMessage = "554 listed"
  RBLHeader = "X-RBL: yes"
  return string.format("220 %s ESMTP %d", ServerName, ServerID)
end

function RBLResults()
  note("RBLResults")
  for zone, entry in pairs(RBLResultInfo) do
    if entry.score > 3 then RBLRejectMessage = "554 " .. zone .. " " .. entry.text end
  end
end

function LoadLimits()
  MaxSessions = MaxSessions * 2
  MaxSessionsPerIP = math.pow(2, 3)
end

function GetMaxMessageSize() return 10 * 1024 * 1024 end
function GetEHLOCapabilities(caps)
  table.foreach(caps, function(k, v) if v == "8BITMIME" then caps[k] = nil end end)
  local out = {}
  for _, v in pairs(caps) do out[#out + 1] = v end
  table.sort(out)
  return out
end
function DoHELO(command, name)
  if HeloName == "localhost" then return "550 go away, " .. command .. " " .. name end
  return ""
end
function DoHELP(args) return "214 " .. args end
function DoQUIT(args) note("DoQUIT") return "221 bye" end
function DoNOOP(args) return "" end
function DoRSET(args) return "" end
function DoVRFY(address) return "252 " .. address end
function DoEXPN(address) return "550 " .. address end
function DoMAILFROM(address, params)
  if params.SIZE and tonumber(params.SIZE) > 1000 then return "552 too big: " .. MailFrom end
  return ""
end
function DoRCPTTO(address, params)
  local a, b = string.match(address, "^(.-)%+.-(@.*)$")
  if a then return "", a .. b end
  if address == "spam@example.com" then return "550 no" end
  return ""
end
function DoDATAStart() return unpack({""}) end
function DoUnrecognised(line) return "500 what is " .. line end
function StartMessage() lines = 0 end
function MessageLineRaw(line) return line end
function MessageLine(line)
  lines = lines + 1
  if string.sub(line, 1, 6) == "X-Bad:" then return nil end
  return line
end
function EndMessage() return lines > 2 and "554 too long" or "" end
function ProcessMessage(from, subj, rcpts, act, mime, size, att)
  local head = VPOP3.GetMessageLines(1)
  VPOP3.MessageReset()
  assert(act.SendToOriginalRecipients == true and act.Ignore == false and act.Delete == false)
  if size > 20 * 1024 then act.HeaderModifiers = {"X-Large: " .. size} end
  for i = 1, #mime do
    if mime[i].ContentSubtype == "pdf" then
      act.Reason = VPOP3.GetMessagePartBody(mime[i].Path, true)
      act.Recipients = {"archive@example.com"}
    end
  end
  return act, head[1] .. " " .. subj .. " " .. #rcpts .. " " .. att[1].name
end
function CheckRecipients(recipients)
  local bad = {}
  for i, r in ipairs(recipients) do if not r:find("@example.com", 1, true) then bad[#bad + 1] = r end end
  return bad
end
function MonitorBcc(bccs) return bccs end
function LogRecipients(recipients) logged = table.concat(recipients, ";") end
function LogRecipientsBlocked(recipients) blocked = #Recipients end
function End() note("End") print("session of " .. AuthUser .. " is over", SpamScore) end
]]

local function session()
  local env = host.env("smtpsvr", script)
  for name, value in pairs {
    IPAddress = "192.0.2.7", ServerPort = 25, ServerID = 1, ServerName = "mx", ReverseDNS = "", Country = "",
    ValidClientAddress = false, LocalClientAddress = false, AllowRelay = false, AuthenticationRequired = false,
    AuthenticationAllowed = true, Encryption = false, EncryptionDetails = "", MaxSessions = 100,
    MaxSessionsPerIP = 5, AuthUser = "anna", MailFrom = "a@b", SpamScore = 1.5, Recipients = {"x", "y"},
    RBLResultInfo = {["bl.example"] = {address = "127.0.0.2", text = "spam", score = 5}},
  } do
    env:set(name, value)
  end
  return env
end

local function reply(env, name, ...)
  local what, text = env:call(name, ...)
  assert(what == "done", name .. ": " .. what .. " " .. tostring(text))
  return text
end

describe("SMTPSVR in Lua 5.2 idiom", function()
  it("sees its globals and changes the changeable ones", function()
    local env = session()
    assert(reply(env, "Start") == "220 mx ESMTP 1")
    assert(env:get("ValidClientAddress") == true and env:get("LocalClientAddress") == true)
    assert(env:get("AllowRelay") == true and env:get("AuthenticationRequired") == true)
    assert(env:get("AuthenticationAllowed") == false and env:get("MaxLineLength") == 2000)
    assert(env:get("AddUserAddresses") == true and env:get("CheckRBL") == true)
    assert(env:get("RBLRejectMessage") == "554 listed" and env:get("RBLHeader") == "X-RBL: yes")
    assert(env:get("IPAddress") == "192.0.2.7")
    reply(env, "RBLResults")
    assert(env:get("RBLRejectMessage") == "554 bl.example spam")
    reply(env, "LoadLimits")
    assert(env:get("MaxSessions") == 200 and env:get("MaxSessionsPerIP") == 8)
  end)

  it("answers every command", function()
    local env = session()
    assert(reply(env, "GetMaxMessageSize") == 10485760)
    local caps = reply(env, "GetEHLOCapabilities", {"SIZE 1", "8BITMIME", "PIPELINING"})
    assert(#caps == 2 and caps[1] == "PIPELINING" and caps[2] == "SIZE 1")
    env:set("HeloName", "localhost")
    assert(reply(env, "DoHELO", "EHLO", "localhost") == "550 go away, EHLO localhost")
    assert(reply(env, "DoHELP", "me") == "214 me" and reply(env, "DoQUIT", "") == "221 bye")
    assert(reply(env, "DoNOOP", "") == "" and reply(env, "DoRSET", "") == "")
    assert(reply(env, "DoVRFY", "a") == "252 a" and reply(env, "DoEXPN", "l") == "550 l")
    assert(reply(env, "DoMAILFROM", "a@b", {SIZE = "2000"}) == "552 too big: a@b")
    assert(reply(env, "DoMAILFROM", "a@b", {}) == "")
    local _, text, address = env:call("DoRCPTTO", "bob+list@example.com", {})
    assert(text == "" and address == "bob@example.com")
    assert(reply(env, "DoRCPTTO", "spam@example.com", {}) == "550 no")
    assert(reply(env, "DoDATAStart") == "" and reply(env, "DoUnrecognised", "XYZ") == "500 what is XYZ")
  end)

  it("follows the message line by line", function()
    local env = session()
    reply(env, "StartMessage")
    assert(reply(env, "MessageLineRaw", "..x") == "..x" and reply(env, "MessageLine", "To: a") == "To: a")
    assert(reply(env, "MessageLine", "X-Bad: 1") == nil)
    assert(reply(env, "EndMessage") == "")
    reply(env, "MessageLine", "more")
    assert(reply(env, "EndMessage") == "554 too long")
  end)

  it("processes the whole message", function()
    local env = session()
    local text = "Subject: x\r\n\r\nbody aGVsbG8="
    env:message(text)
    local actions = {SendToOriginalRecipients = true, Delete = false, Ignore = false, Reason = "",
                     Recipients = {}, HeaderModifiers = {}}
    local mime = {{Path = "1", ContentType = "application", ContentSubtype = "pdf", Start = 0, BodyStart = 19,
                   End = #text, Encoding = "base64", ContentTypeFilename = "a.pdf", ContentDisposition = "attachment",
                   ContentDispositionFilename = "a.pdf", Charset = "", Lines = 1}}
    local what, act, log = env:call("ProcessMessage", "a@b", "hello", {"x@y", "z@y"}, actions, mime, 50000,
                                    {{name = "a.pdf", mimetype = "application/pdf", size = 8, path = "1"}})
    assert(what == "done", act)
    assert(act.HeaderModifiers[1] == "X-Large: 50000" and act.Reason == "hello")
    assert(act.Recipients[1] == "archive@example.com" and log == "Subject: x hello 2 a.pdf")
  end)

  it("is told of recipients and of the end", function()
    local env = session()
    local bad = reply(env, "CheckRecipients", {"a@example.com", "b@elsewhere"})
    assert(#bad == 1 and bad[1] == "b@elsewhere")
    assert(reply(env, "MonitorBcc", {"b"})[1] == "b")
    reply(env, "LogRecipients", {"a", "b"})
    reply(env, "LogRecipientsBlocked", {"c"})
    reply(env, "End")
  end)
end)
