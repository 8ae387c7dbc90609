#!/usr/bin/env python3
"""Mail in by SMTP, out by POP3: what is read is what was sent, below trace lines."""
import pathlib
import smtplib
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Conn, main, wait_until  # noqa: E402


def body_of(message):
    return message.split(b'\r\n\r\n', 1)[1]


def test_round_trip():
    """Bodies of all sizes byte for byte, headers as sent below ours."""
    with Server() as s:
        s.users('bob').start()
        sent = []
        for size in (0, 1, 100, 4000, 70_000, 262_140, 262_144, 262_150, 3_000_000):
            line = b'0123456789abcdef' * 4 + b'\r\n'
            body = (b'.first\r\n..second\r\n' + line * (size // len(line) + 1))[:size]
            body = body[:-1] + b'x' if body.endswith(b'\r') else body
            if body and not body.endswith(b'\r\n'):
                body += b'\r\n'
            head = b'Subject: size %d\r\nX-Odd:\tvalue\r\n folded\r\nFrom: A <a@elsewhere.test>\r\n' % size
            s.send(text=head + b'\r\n' + body)
            sent.append((head, body))
        got = s.bodies('bob')
        assert len(got) == len(sent)
        by_subject = {g.split(b'Subject: size ')[1].split(b'\r\n')[0]: g for g in got}
        for head, body in sent:
            size = head.split(b'Subject: size ')[1].split(b'\r\n')[0]
            g = by_subject[size]
            top, rest = g.split(b'\r\n\r\n', 1)
            assert (top + b'\r\n').endswith(head), top
            assert top.startswith(b'Return-Path: <a@elsewhere.test>\r\nReceived: from client.test'), top
            assert b'\tfor <bob@example.test>' in top, top
            assert rest == body, (size, len(rest), len(body))


def test_several_recipients():
    """One message to several users: one body, no 'for' in Received."""
    with Server() as s:
        s.users('bob', 'carol', 'dave').start()
        s.send(to=['bob@example.test', 'carol@example.test', 'dave@example.test'])
        for u in ('bob', 'carol', 'dave'):
            (m,) = s.bodies(u)
            assert b' for <' not in m.split(b'\r\n\r\n')[0]
        assert s.sql('select count(*) from body') == [['1']]


def test_odd_messages():
    """No header section, header only, NUL bytes, 8-bit bytes, very long lines."""
    with Server() as s:
        s.users('bob').start()
        texts = [b'no header here\r\nsecond line\r\n', b'Subject: only head\r\n', b'\r\nbody only\r\n',
                 b'Subject: nul\r\n\r\na\0b\0\r\n', b'Subject: \xff\xfe\r\n\r\n\x80\x81\r\n',
                 b'Subject: long\r\n\r\n' + b'x' * 300_000 + b'\r\n', b' leading fold\r\n\r\nbody\r\n']
        for t in texts:
            with Conn(s.port('smtp')) as c:
                c.reply()
                c.cmd('EHLO c')
                c.cmd('MAIL FROM:<>')
                c.cmd('RCPT TO:<bob@example.test>')
                c.cmd('DATA')
                c.send(t + b'.\r\n')
                r = c.reply()
                assert r.startswith('250 '), (t[:40], r)
        got = s.bodies('bob')
        assert len(got) == len(texts)
        bodies = sorted(body_of(g) for g in got)
        want = sorted([b'no header here\r\nsecond line\r\n', b'', b'body only\r\n', b'a\0b\0\r\n',
                       b'\x80\x81\r\n', b'x' * 300_000 + b'\r\n', b' leading fold\r\n\r\nbody\r\n'])
        for b, w in zip(bodies, want):
            at = next((i for i in range(min(len(b), len(w))) if b[i] != w[i]), None)
            assert b == w, (len(b), len(w), at, b[at - 20:at + 20] if at else b[:40])


def test_large_messages_under_pressure():
    """Bodies of several parts from a client that writes fast, by SMTP and by APPEND: every byte stays
    (the input buffer must not move under a task that works on it)."""
    import random
    with Server(workers=1) as s:
        s.users('bob').start()
        rng = random.Random(1)
        bodies = []
        for n in range(12):
            line = bytes(rng.randrange(97, 123) for _ in range(74)) + b'\r\n'
            bodies.append(b''.join(b'%06d' % i + line for i in range(rng.randrange(3300, 16000))))

        def by_smtp(body):
            s.send(text=b'Subject: big\r\n\r\n' + body)

        def by_append(body):
            with s.imap('bob') as c:
                assert c.append('INBOX', None, None, b'Subject: big\r\n\r\n' + body)[0] == 'OK'
        threads = [threading.Thread(target=by_smtp if n % 2 else by_append, args=(b,)) for n, b in enumerate(bodies)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        got = sorted(body_of(m) for m in s.bodies('bob'))
        assert len(got) == len(bodies)
        for g, w in zip(got, sorted(bodies)):
            at = next((i for i in range(min(len(g), len(w))) if g[i] != w[i]), None)
            assert g == w, (len(g), len(w), at, g[at - 10:at + 30] if at else None)


def test_limits():
    """Size, recipients, header section and lines over their limits get their codes; the session lives on."""
    with Server() as s:
        s.users('bob')
        s.cli('setting', 'set', 'smtp.max_message_size', 20000)
        s.cli('setting', 'set', 'smtp.max_recipients', 2)
        s.cli('setting', 'set', 'smtp.max_line_length', 998)
        s.start()
        with Conn(s.port('smtp')) as c:
            c.reply()
            assert 'SIZE 20000' in c.cmd('EHLO c')
            assert c.cmd('MAIL FROM:<a@b.test> SIZE=20001').startswith('552 ')
            c.cmd('MAIL FROM:<a@b.test>')
            c.cmd('RCPT TO:<bob@example.test>')
            c.cmd('RCPT TO:<bob@example.test>')
            assert c.cmd('RCPT TO:<bob@example.test>').startswith('452 4.5.3')
            c.cmd('DATA')
            c.send(b'Subject: x\r\n\r\n' + b'0123456789\r\n' * 2000 + b'.\r\n')
            assert c.reply().startswith('552 5.3.4')
            c.cmd('MAIL FROM:<a@b.test>')
            c.cmd('RCPT TO:<bob@example.test>')
            c.cmd('DATA')
            c.send(b'Subject: x\r\n\r\n' + b'y' * 999 + b'\r\n.\r\n')
            assert c.reply().startswith('554 5.6.0')
            c.send('NOOP ' + 'x' * 3000 + '\r\n')
            assert c.reply().startswith('500 5.5.2')
            assert c.closed()
        assert s.bodies('bob') == []


def test_session_limits():
    """60 simultaneous connections at limit 10 get exactly 10, at 1 and 4 workers, also after a kill."""
    import os
    import signal
    for workers in (1, 4):
        with Server(workers=workers) as s:
            s.users('bob')
            s.cli('setting', 'set', 'smtp.max_sessions_per_client', 10)
            s.start()

            def admitted():
                conns, greets = [], []

                def one():
                    c = Conn(s.port('smtp'))
                    conns.append(c)
                    greets.append(c.reply()[:3])
                threads = [threading.Thread(target=one) for _ in range(60)]
                [t.start() for t in threads]
                [t.join() for t in threads]
                [c.close() for c in conns]
                return greets.count('220'), greets.count('421')
            assert admitted() == (10, 50)
            wait_until(lambda: admitted() == (10, 50), what='seats to be free again')
            held = [Conn(s.port('smtp')) for _ in range(5)]
            [c.reply() for c in held]
            for pid in s.pids('worker'):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: admitted() == (10, 50), what='exactly ten after the kill')


def test_graceful_stop():
    """A stop lets the message in hand finish and says 421 to the others."""
    with Server(workers=1) as s:
        s.users('bob').start()
        idle = Conn(s.port('smtp'))
        idle.reply()
        busy = Conn(s.port('smtp'))
        busy.reply()
        for line in ('EHLO c', 'MAIL FROM:<a@b.test>', 'RCPT TO:<bob@example.test>', 'DATA'):
            busy.cmd(line)
        busy.send('Subject: in hand\r\n\r\n')
        done = threading.Thread(target=s.stop)
        process = s.process
        done.start()
        assert idle.reply().startswith('421 '), 'idle session'
        busy.send('body\r\n.\r\n')
        assert busy.reply().startswith('250 2.0.0')
        assert busy.reply().startswith('421 ')
        done.join()
        assert process.returncode == 0
        s.start()
        assert len(s.bodies('bob')) == 1


def test_restart_keeps_everything():
    with Server(workers=1) as s:
        s.users('bob').start()
        s.send(text='Subject: before\r\n\r\nx\r\n')
        s.stop()
        s.start()
        s.send(text='Subject: after\r\n\r\nx\r\n')
        assert [b'before' in m or b'after' in m for m in s.bodies('bob')] == [True, True]


def test_single_process():
    with Server(single=True) as s:
        s.users('bob').start()
        s.send()
        assert len(s.bodies('bob')) == 1
        assert s.stop() == 0


def test_new_settings_of_users():
    """A user added, disabled or given a new password is known to every worker at its next command."""
    import poplib
    with Server(workers=4) as s:
        s.users('bob').start()
        conns = [s.smtp() for _ in range(16)]
        for c in conns:
            c.ehlo()
            c.mail('a@b.test')
            assert c.rcpt('late@example.test')[0] == 550
        s.cli('user', 'add', 'late', '--password', 'secret')
        for c in conns:
            assert c.rcpt('late@example.test')[0] == 250
            c.close()
        for _ in range(8):
            s.pop3('late').quit()
        s.cli('user', 'set', 'late', '--password', 'changed')
        for _ in range(8):
            s.pop3('late', 'changed').quit()
        s.cli('setting', 'set', 'security.lock_after', 0)
        for _ in range(8):
            try:
                s.pop3('late', 'secret')
                raise AssertionError('old password works')
            except poplib.error_proto as e:
                assert b'[AUTH]' in e.args[0]
        s.cli('user', 'set', 'late', 'enabled', 'false')
        for _ in range(8):
            try:
                s.pop3('late', 'changed')
                raise AssertionError('disabled user signed in')
            except poplib.error_proto as e:
                assert b'[AUTH]' in e.args[0]


def test_mappings():
    """Precedence as in the digest: explicit mappings, user, ~@domain, unknown; No-one; *REMOTE."""
    with Server() as s:
        s.users('bob', 'carol', 'dave')
        s.cli('mapping', 'add', 'sales@example.test', 'bob')
        s.cli('mapping', 'add', 'sales@example.test', 'carol')
        s.cli('mapping', 'add', 'info*@example.test', 'dave')
        s.cli('mapping', 'add', 'dave@example.test', 'carol')
        s.cli('mapping', 'add', 'void@example.test', 'No-one')
        s.cli('mapping', 'add', 'far@example.test', '*REMOTE')
        s.cli('domain', 'add', 'other.test')
        s.cli('mapping', 'add', '~@other.test', 'bob')
        s.start()

        def counts():
            return [len(s.bodies(u)) for u in ('bob', 'carol', 'dave')]
        s.send(to='sales@example.test')
        assert counts() == [1, 1, 0]
        s.send(to='info-desk@example.test')
        assert counts() == [1, 1, 1]
        s.send(to='dave@example.test')  # his mapping suppresses the implicit user
        assert counts() == [1, 2, 1]
        s.send(to='void@example.test')
        assert counts() == [1, 2, 1]
        s.send(to='whoever@other.test')
        assert counts() == [2, 2, 1]
        s.send(to='carol@other.test')
        assert counts() == [2, 3, 1]
        with s.smtp() as c:
            c.ehlo()
            c.mail('a@elsewhere.test')
            assert c.rcpt('nobody@example.test')[0] == 550
            assert c.rcpt('far@example.test')[0] == 550  # *REMOTE from outside would be a relay


def test_forwarding():
    """Assistants copy, forwards redirect, remote targets are queued, circles end."""
    with Server() as s:
        s.users('bob', 'carol', 'dave')
        s.cli('user', 'set', 'bob', 'assistant', 'carol')
        s.cli('user', 'set', 'dave', 'forward', 'x@elsewhere.test; carol')
        s.cli('user', 'set', 'dave', 'use_forward', 'true')
        s.start()
        s.send(to='bob@example.test')
        assert [len(s.bodies(u)) for u in ('bob', 'carol', 'dave')] == [1, 1, 0]
        s.send(to='dave@example.test')
        assert [len(s.bodies(u)) for u in ('bob', 'carol', 'dave')] == [1, 2, 0]
        assert s.sql('select recipient, sender from queue') == [['x@elsewhere.test', 'a@elsewhere.test']]
        s.cli('user', 'set', 'carol', 'forward', 'dave')
        s.cli('user', 'set', 'carol', 'use_forward', 'true')
        s.send(to='dave@example.test')  # dave -> carol -> dave ...


def test_hostile_clients():
    """Clients that vanish at each step leave nothing behind and hold nobody up."""
    with Server(workers=1) as s:
        s.users('bob').start()
        script = [b'EHLO c\r\n', b'MAIL FROM:<a@b.test>\r\n', b'RCPT TO:<bob@example.test>\r\n', b'DATA\r\n',
                  b'Subject: x\r\n\r\nbody', b'\r\n.', b'\r\n']
        for n in range(len(script)):
            with socket.create_connection(('127.0.0.1', s.port('smtp'))) as c:
                c.recv(1000)
                for part in script[:n]:
                    c.sendall(part)
        s.send(text='Subject: last\r\n\r\nx\r\n')
        assert any(b'Subject: last' in m for m in s.bodies('bob'))
        # garbage
        for junk in (b'\0' * 1000 + b'\r\n', b'\xff' * 100 + b'\r\n', b'\r\n' * 50, b'A' * 100000):
            with socket.create_connection(('127.0.0.1', s.port('smtp')), 5) as c:
                c.sendall(junk)
                c.settimeout(5)
                try:
                    c.recv(1000)
                except OSError:
                    pass
        s.send(text='Subject: still\r\n\r\nx\r\n')


def test_lockout():
    """Three wrong passwords lock the account for that client; loopback is exempt unless told otherwise."""
    import poplib
    with Server() as s:
        s.users('bob')
        s.cli('setting', 'set', 'security.lock_loopback', 'true')
        s.start()
        for _ in range(3):
            try:
                s.pop3('bob', 'wrong')
            except poplib.error_proto:
                pass
        try:
            s.pop3('bob')
            raise AssertionError('not locked')
        except poplib.error_proto as e:
            assert b'[AUTH]' in e.args[0]


def test_relay_needs_a_grant():
    with Server() as s:
        s.users('bob').start()
        with s.smtp() as c:
            try:
                c.sendmail('bob@example.test', ['x@elsewhere.test'], 'Subject: x\r\n\r\nx\r\n')
                raise AssertionError('relayed')
            except smtplib.SMTPRecipientsRefused as e:
                assert e.recipients['x@elsewhere.test'][0] == 550
        s.cli('setting', 'set', 'smtp.relay_networks', '127.0.0.0/8')

        def granted():
            with s.smtp() as c:
                c.ehlo()
                c.mail('bob@example.test')
                return c.rcpt('x@elsewhere.test')[0] == 250
        wait_until(granted, 3, 'the grant')


def test_access_rules():
    with Server() as s:
        s.users('bob').start()
        s.cli('access', 'add', 'pop3', 'block', '127.0.0.1')

        def blocked():
            with Conn(s.port('pop3')) as c:
                return c.line().startswith('-ERR')
        wait_until(blocked, 3, 'the rule')
        assert s.answers()


main(globals())
