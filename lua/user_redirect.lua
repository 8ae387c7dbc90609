-- Mail to a user: assistants and forwards of this one message.
--
-- A chunk: it runs from top to bottom for each message and each user, and answers by changing globals
-- (Assistants, RedirectToAssistant, Forwards, UseForwards, SendToNormalRecipient, ShouldForward,
-- BigRedirect, SmallRedirect).  What they then say is done:
--   * ShouldForward = false: the message just goes to the user;
--   * BigRedirect and SmallRedirect: to Target, when the size in kB reaches or stays below Threshold; with
--     Copy the user keeps it;
--   * Assistants get a copy; with RedirectToAssistant the user does not keep it; the assistant's own
--     assistants are not followed, and they are left alone when the sender is one of them;
--   * Forwards, while UseForwards is on, get it instead of the user, who keeps a copy with
--     SendToNormalRecipient.
--
-- The two options of the user's page that belong here are the hours: "from-to", each blank (always),
-- YYYYMMDD, HH:MM, or both.  Date and time count by themselves: 20161013 12:00-20161017 15:00 is from
-- 12:00 to 15:00 on each of five days.

local function parse(text)
  local date = text:match("%f[%d](%d%d%d%d%d%d%d%d)%f[%D]")
  local hour, minute = text:match("%f[%d](%d%d?):(%d%d)%f[%D]")
  return date, hour and ("%02d%02d"):format(tonumber(hour), tonumber(minute))
end

-- Is `now` (YYYYMMDDHHMMSS) inside?  Blank or unreadable hours are always.
local function inside(hours, now)
  if type(hours) ~= "string" or not hours:find("%d") then
    return true
  end
  local from, to = hours:match("^(.-)%-(.*)$")
  local from_date, from_time = parse(from or hours)
  local to_date, to_time = parse(to or "")
  local date, time = now:sub(1, 8), now:sub(9, 12)
  if from_date and date < from_date or to_date and date > to_date then
    return false
  end
  if from_time and to_time and from_time > to_time then
    return time >= from_time or time <= to_time -- over midnight
  end
  return not (from_time and time < from_time or to_time and time > to_time)
end

local now = Now or VPOP3.Now()

if not inside(AssistantHours, now) then
  Assistants = ""
end
if not inside(ForwardHours, now) then
  UseForwards = false
end
if Quarantined and SkipIfQuarantined then
  ShouldForward = false
end
