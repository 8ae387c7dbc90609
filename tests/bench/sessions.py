"""IMAP at size: memory of idle sessions, and opening a mailbox of a million messages.

usage: sessions.py [--quick] [--case idle|tls|select]...
idle, tls: 1,000 sessions in IDLE on INBOXes of 100 messages; what the whole installation (workers and
database) grew by, a session.  select: a mailbox filled with packed index pages by SQL, all naming one real
message, so that every entry can be fetched; then SELECT on a warm database cache."""
import argparse
import resource
import time

from common import Conn, DOMAIN, PASSWORD, figure, load, median, pss_kb, server, wait_until

USERS, EACH = 50, 100
MILLION = 1_000_000
PAGE = 256


def sign_in(s, user, tls=False):
    c = Conn(s.port('imaps' if tls else 'imap'), 60)
    if tls:
        c.start_tls()
    c.line()
    command(c, f'LOGIN {user}@{DOMAIN} {PASSWORD}')
    return c


def command(c, text):
    """Untagged lines of a command."""
    c.send(f'x {text}\r\n')
    lines = []
    while True:
        lines.append(c.line())
        if lines[-1].startswith('x '):
            if not lines[-1].startswith('x OK'):
                raise AssertionError(lines[-1])
            return lines


def idle(tls, sessions):
    names = [f'i{i}' for i in range(USERS)]
    s = server(users=names, settings=[('imap.max_sessions', 5000), ('imap.max_sessions_per_client', 5000)])
    try:
        s.start()
        load(s.port('smtp'), 10, USERS * EACH, 2000, f'i:{USERS}')
        # Everything that is grown once, not a session: caches, pools, statements of every worker.
        for n in names:
            warm = [sign_in(s, n, tls) for _ in range(4)]
            for c in warm:
                assert f'* {EACH} EXISTS' in command(c, 'SELECT INBOX')
                command(c, 'LOGOUT')
                c.close()
        time.sleep(1)
        before = pss_kb(s.pids()), pss_kb(s.pids('worker'))
        held = []
        for i in range(sessions):
            c = sign_in(s, names[i % USERS], tls)
            command(c, 'SELECT INBOX')
            c.send('x IDLE\r\n')
            assert c.line().startswith('+')
            held.append(c)
        time.sleep(1)
        after = pss_kb(s.pids()), pss_kb(s.pids('worker'))
        each = (after[0] - before[0]) / sessions
        goal = 64 if tls else 32
        figure(f'PSS of an IDLE session, {"TLS" if tls else "no TLS"}, {sessions} of them', each, 'KB', f'<= {goal}',
               each <= goal, workers_only=round((after[1] - before[1]) / sessions, 2))
        # They are alive: a message reaches the sessions of its mailbox.
        load(s.port('smtp'), 1, 1, 2000, 'i:1', seed=77)
        c = held[0]
        wait_until(lambda: 'EXISTS' in c.line(), 10, 'EXISTS')
        for c in held:
            c.close()
    finally:
        s.remove()


FILL = """
with m as (select m.id, m.account, (select head from mailbox_entry e where e.account = m.account limit 1) as head
             from mailbox m join account a on a.id = m.account where a.name = 'big' and m.name = 'INBOX'),
     p as (select i, least({page}, {count} - i * {page})::int as n from generate_series(0, ({count} - 1) / {page}) i),
     gone as (delete from arrival a using m where a.mailbox = m.id),
     old as (delete from mailbox_page q using m where q.mailbox = m.id and q.account = m.account)
insert into mailbox_page (account, mailbox, min_uid, max_uid, max_modseq, n, uids, flags, mods, refs)
select m.account, m.id, {first} + i * {page}, {first} + i * {page} + n - 1, 2, n,
       (select string_agg(substr(int4send(k), 3), ''::bytea order by k) from generate_series(0, n - 1) k),
       decode(repeat('00000000', n), 'hex'),
       decode(repeat(encode(int8send(2), 'hex'), n), 'hex'),
       decode(repeat(encode(int8send(m.head) || int4send(2000) || int4send(1760000000), 'hex'), n), 'hex')
  from m, p;
"""


def status_kb(pid, key):
    for line in open(f'/proc/{pid}/status'):
        if line.startswith(key + ':'):
            return int(line.split()[1])
    return 0


def select(count, runs):
    s = server(users=['big'])
    try:
        s.start()
        s.send(to=f'big@{DOMAIN}', text='Subject: one of many\r\n\r\n' + 'text\r\n' * 300)
        c = sign_in(s, 'big')
        command(c, 'SELECT INBOX')
        command(c, 'LOGOUT')
        first = 1000
        s.sql(FILL.format(count=count, page=PAGE, first=first))
        s.sql(f"update mailbox m set uidnext = {first + count}, messages = {count}, unseen = {count}, "
              f"bytes = {count}::bigint * 2000, highestmodseq = 3 from account a "
              "where a.id = m.account and a.name = 'big' and m.name = 'INBOX'")
        s.sql('vacuum analyze mailbox_page')
        took, growth, peaks = [], [], []
        for i in range(runs + 1):
            c = sign_in(s, 'big')
            pids = s.pids('worker')
            before = {p: pss_kb([p]) for p in pids}
            for p in pids:
                open(f'/proc/{p}/clear_refs', 'w').write('5')  # the peak starts again at what is resident
            rss = {p: status_kb(p, 'VmRSS') for p in pids}
            begun = time.monotonic()
            lines = command(c, 'SELECT INBOX')
            ms = (time.monotonic() - begun) * 1e3
            assert f'* {count} EXISTS' in lines, lines
            grown = max((pss_kb([p]) - before[p]) / 1024 for p in pids)
            peak = max((status_kb(p, 'VmHWM') - rss[p]) / 1024 for p in pids)
            if i == 0:
                cold = ms  # the first one also warms the cache
                growth.append(round(grown, 1))
            else:
                took.append(round(ms, 1))
            peaks.append(round(peak, 1))
            if i == runs:
                got = command(c, f'FETCH {count // 2} (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])')
                assert f'UID {first + count // 2 - 1} ' in got[0] and 'one of many' in ''.join(got), got
            command(c, 'LOGOUT')
            c.close()
        figure(f'SELECT of {count:,} messages, warm', median(took), 'ms', '< 50', median(took) < 50, runs=took,
               first_ms=round(cold, 1))
        figure(f'worker growth by SELECT of {count:,}', max(growth), 'MB', '<= 32', max(growth) <= 32,
               peak_mb=peaks)
    finally:
        s.remove()


def main():
    a = argparse.ArgumentParser()
    a.add_argument('--quick', action='store_true')
    a.add_argument('--case', action='append', choices=('idle', 'tls', 'select'))
    o = a.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cases = o.case or ['idle', 'tls', 'select']
    if 'idle' in cases:
        idle(False, 300 if o.quick else 1000)
    if 'tls' in cases:
        idle(True, 300 if o.quick else 1000)
    if 'select' in cases:
        select(MILLION, 3 if o.quick else 7)


if __name__ == '__main__':
    main()
