-- What keeps the server safe.  Runs after the site's hooks, cannot be replaced, and is the last word:
-- a script grants more only through the declared globals that stand in the facts (valid_client,
-- relay ...), never by a friendly reply.
--
-- Each function gets one table of facts and returns "" or the reply that refuses.
-- Common facts:
--   peer           client address             service        name of the service
--   submission     it is a submission service valid_client   the address may use the service
--   local_client   it is in the local network allow_unauth   may submit from there without signing in
--   relay          may send to other servers without signing in
--   authenticated  has signed in              user           as whom, or ""
--   tls            TLS is on                  tls_required   the service demands it
--   auth_required  the service demands signing in

-- May this client talk to this service at all?
function connect(facts)
  if not facts.valid_client then
    return "554 5.7.1 access not allowed"
  end
  return ""
end

-- Besides the common facts: sender, size (as declared, 0 if not), max_size (0: none).
function mail(facts)
  if facts.tls_required and not facts.tls then
    return "530 5.7.0 Must issue a STARTTLS command first"
  end
  if facts.auth_required and not facts.authenticated and not facts.allow_unauth then
    return "530 5.7.0 Authentication required"
  end
  local size, max_size = facts.size or 0, facts.max_size or 0
  if max_size > 0 and size > max_size then
    return "552 5.3.4 Message size exceeds fixed maximum message size"
  end
  return ""
end

-- Besides the common facts: recipient, sender, kind ("local", "remote", "discard", "unknown" or "mixed"),
-- may_send_remote (of the user that signed in), recipients and max_recipients where known.
function rcpt(facts)
  local kind = facts.kind
  if kind == "unknown" or kind == nil then
    return "550 5.1.1 User unknown"
  end
  if facts.max_recipients and facts.max_recipients > 0
    and (facts.recipients or 0) >= facts.max_recipients then
    return "452 4.5.3 Too many recipients"
  end
  if kind == "remote" then
    if not facts.authenticated and not facts.relay then
      return "550 5.7.1 Relaying denied"
    end
    if facts.may_send_remote == false then
      return "550 5.7.1 You may not send mail to other servers"
    end
  end
  return ""
end

-- size, max_size (0: none), hops (Received lines), max_hops.
function message(facts)
  local max_size = facts.max_size or 0
  if max_size > 0 and (facts.size or 0) > max_size then
    return "552 5.3.4 Message size exceeds fixed maximum message size"
  end
  if (facts.max_hops or 0) > 0 and (facts.hops or 0) > facts.max_hops then
    return "554 5.4.6 Too many hops: the message is in a loop"
  end
  return ""
end
