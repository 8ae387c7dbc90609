-- The modules of stdlib.

local text, address = require "text", require "address"

describe("text", function()
  it("trims and splits", function()
    assert(text.trim("  a b\t\n") == "a b" and text.trim("") == "")
    local t = text.split(" a; b;;c ", ";")
    assert(#t == 3 and t[1] == "a" and t[2] == "b" and t[3] == "c")
    assert(#text.split("") == 0)
  end)
  it("compares", function()
    assert(text.starts("abc", "ab") and not text.starts("abc", "b"))
    assert(text.ends("abc", "bc") and text.ends("abc", "") and not text.ends("abc", "b"))
    assert(text.glob("*@Example.com", "anna@example.COM") and not text.glob("a?", "a"))
    assert(text.glob("a.b", "a.b") and not text.glob("a.b", "axb"))
  end)
end)

describe("address", function()
  it("splits", function()
    local user, domain = address.split("anna@b@Example.COM")
    assert(user == "anna@b" and domain == "example.com")
    assert(address.domain("anna") == "")
    assert(address.bare('"A" <a@b>') == "a@b" and address.bare(" a@b ") == "a@b")
    assert(address.same("A@b", "a@B"))
  end)
end)
