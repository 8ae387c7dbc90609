-- io: files of a call, and nothing else.
local text = [[
function DoNOOP(what)
  if what == "write" then
    local f = assert(io.open("a.txt", "w"))
    assert(f:write("one\n", "two\n", 3, "\n"))
    f:close()
    assert(not pcall(f.write, f, "x"))
    f = assert(io.open("a.txt", "a"))
    f:write("four")
    f:close()
    local t = {}
    for line in io.lines("a.txt") do t[#t + 1] = line end
    f = assert(io.open("a.txt", "r+"))
    assert(f:read("l") == "one" and f:read("L") == "two\n" and f:read("n") == 3)
    assert(f:read(1) == "\n" and f:read(100) == "four" and f:read("a") == "" and f:read("l") == nil)
    assert(f:seek("set", 4) == 4 and f:read(3) == "two")
    assert(f:seek("set", 0) == 0 and f:write("ONE") and f:seek("set") == 0 and f:read("l") == "ONE")
    assert(io.type(f) == "file" and io.type(1) == nil)
    KEPT = f
    return table.concat(t, ",")
  elseif what == "kept" then
    assert(io.type(KEPT) == "closed file")
    return tostring(io.open("a.txt"))
  elseif what == "outside" then
    for _, name in ipairs{"/etc/passwd", "../x", "a/../../x", "./a", "", "a\0b", "/", "x/y", ".."} do
      for _, mode in ipairs{"r", "w", "a+"} do
        assert(io.open(name, mode) == nil, name)
      end
    end
    return "none"
  elseif what == "much" then
    local f, big = assert(io.open("b", "w")), ("x"):rep(1000000)
    for _ = 1, 1000 do
      if not f:write(big) then return "full" end
    end
  elseif what == "many" then
    local t = {}
    for i = 1, 100 do
      t[i] = io.open("c" .. i, "w")
      if not t[i] then return "limited" end
    end
  end
end
]]

describe("io", function()
  local env = host.env("smtpsvr", text)
  local function says(what)
    local how, reply = env:call("DoNOOP", what)
    assert(how == "done", reply)
    return reply
  end
  it("writes and reads", function() assert(says("write") == "one,two,3,four") end)
  it("closes and forgets with the call", function() assert(says("kept") == "nil") end)
  it("opens nothing outside", function() assert(says("outside") == "none") end)
  it("is bounded", function()
    assert(says("much") == "full")
    assert(says("many") == "limited")
  end)
  it("refuses what is no mode", function()
    local how = host.env("smtpsvr", "function DoNOOP() io.open('x', 'rw') end"):call("DoNOOP", "")
    assert(how == "failed")
  end)
end)
