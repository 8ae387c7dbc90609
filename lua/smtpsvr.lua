-- SMTP sessions: the policy that is used where the site's own smtpsvr.lua says nothing.
--
-- Each function here can be replaced by one of the same name in the site's script, and reached from
-- there as default(...).  Functions that are not defined anywhere (MessageLine and its like) cost
-- nothing: the server then does not call at all.  What keeps the server safe is not decided here but in
-- guard.lua, after these.
--
-- A reply is "" for the server's own answer, or a full line that begins with its code.

-- At VRFY: neither confirm nor deny (RFC 5321 7.3), unless the setting allows it.
function DoVRFY(_)
  if VPOP3.GetSetting("smtp.enable_vrfy") == "true" then
    return ""
  end
  return "252 2.5.0 Cannot VRFY user, but will accept message and attempt delivery"
end

-- At EXPN: lists are nobody's business, unless the setting allows it.
function DoEXPN(_)
  if VPOP3.GetSetting("smtp.enable_vrfy") == "true" then
    return ""
  end
  return "502 5.5.1 EXPN is not available"
end
