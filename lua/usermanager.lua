-- Signing in: turns what a client gave as user name into the name of a user.
--
-- protocol is POP3, IMAP4, SMTP, WEBMAIL, STATUS, LDAP, CALDAV or SIEVE.  Nothing returned leaves the
-- name as it is.

-- Clients that were told a full address, or "DOMAIN\user", mean the user.
function TranslateUsername(_, submitted)
  local name = submitted:match("^[^\\]*\\(.+)$") or submitted
  local user, domain = name:match("^([^@]+)@([^@]+)$")
  if user and mail.index.domain_is_local(domain) then
    name = user
  end
  if name ~= submitted then
    return name
  end
end
