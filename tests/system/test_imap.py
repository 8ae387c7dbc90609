#!/usr/bin/env python3
"""IMAP: sessions beside each other, hostile messages, and what RFC 3501 asks of views."""
import base64
import imaplib
import pathlib
import re
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Conn, main, wait_until  # noqa: E402


class Imap(Conn):
    """A line client with tags."""

    def __init__(self, s, user='bob', select='INBOX'):
        super().__init__(s.port('imap'))
        self.n = 0
        self.greeting = self.line()
        self.ok(f'LOGIN {user} secret')
        if select:
            self.ok(f'SELECT {select}')

    def do(self, text):
        """All lines of the answer; the last is the tagged one without its tag."""
        self.n += 1
        self.send(f't{self.n} {text}\r\n')
        return self.until(f't{self.n} ')

    def until(self, tag):
        lines = []
        while True:
            lines.append(self.line())
            if lines[-1].startswith(tag):
                lines[-1] = lines[-1][len(tag):]
                return lines

    def ok(self, text):
        lines = self.do(text)
        assert lines[-1].startswith('OK'), (text, lines)
        return lines


def test_two_sessions_see_each_other():
    """Two sessions on one mailbox, in different workers, see each other's changes within a second."""
    with Server(workers=2) as s:
        s.users('bob').start()
        conns = [Imap(s) for _ in range(6)]  # spread over both workers
        for c in conns[1:]:
            c.send('i IDLE\r\n')
            assert c.line().startswith('+')
        begun = time.monotonic()
        s.send()
        for c in conns[1:]:
            while not c.line().endswith(' EXISTS'):
                pass
        took = time.monotonic() - begun
        assert took < 1, f'arrival seen after {took:.2f} s'
        for c in conns[1:]:
            c.send('DONE\r\n')
            c.until('i ')
        conns[0].ok('NOOP')
        for c in conns[1:]:
            c.send('i IDLE\r\n')
            c.line()
        begun = time.monotonic()
        conns[0].ok('STORE 1 +FLAGS (\\Flagged \\Deleted)')
        for c in conns[1:]:
            line = c.line()
            while '\\Flagged' not in line:
                line = c.line()
        conns[0].ok('EXPUNGE')
        for c in conns[1:]:
            while c.line() != '* 1 EXPUNGE':
                pass
        took = time.monotonic() - begun
        assert took < 2, f'changes seen after {took:.2f} s'
        print(f'figure two sessions: flag and expunge seen by five others after {took * 1000:.0f} ms')


def test_expunge_is_announced_only_where_allowed():
    """Not during FETCH, STORE or SEARCH: message numbers must not move under the client (RFC 3501 7.4.1)."""
    with Server(workers=2) as s:
        s.users('bob').start()
        for n in range(4):
            s.send(text=f'Subject: m{n}\r\n\r\nbody {n}\r\n')
        a, b = Imap(s), Imap(s)
        a.ok('STORE 2 +FLAGS.SILENT (\\Deleted)')
        a.ok('EXPUNGE')
        time.sleep(0.3)
        for command in ('FETCH 1:4 (UID)', 'STORE 1 +FLAGS (\\Seen)', 'SEARCH ALL'):
            lines = b.do(command)
            assert not any('EXPUNGE' in line for line in lines[:-1]), (command, lines)
        lines = b.do('FETCH 3 (BODY.PEEK[TEXT])')
        assert any('body 2' in line for line in lines), lines
        lines = b.do('FETCH 2 (BODY.PEEK[TEXT])')
        assert any('body 1' in line for line in lines) or 'EXPUNGEISSUED' in lines[-1], lines
        lines = b.ok('NOOP')
        assert '* 2 EXPUNGE' in lines, lines
        lines = b.do('FETCH 2 (BODY.PEEK[TEXT])')
        assert any('body 2' in line for line in lines), lines


def test_uids_never_change_hands():
    """COPY, MOVE and APPEND from many sessions at once: UIDs are unique, ascending and final."""
    with Server(workers=2) as s:
        s.users('bob').start()
        for n in range(20):
            s.send(text=f'Subject: m{n}\r\n\r\nx\r\n')
        seen, errors = {}, []
        lock = threading.Lock()

        def note(uid, what):
            with lock:
                if seen.setdefault(uid, what) != what:
                    errors.append((uid, seen[uid], what))

        def work(k):
            try:
                c = Imap(s)
                c.do('CREATE other')
                for n in range(10):
                    c.n += 1
                    text = f'Subject: a{k}-{n}\r\n\r\nx\r\n'
                    c.send(f't{c.n} APPEND INBOX {{{len(text)}+}}\r\n{text}\r\n')
                    last = c.until(f't{c.n} ')[-1]
                    note(int(re.search(r'APPENDUID \d+ (\d+)', last).group(1)), f'a{k}-{n}')
                    c.do(f'COPY {n + 1} other')
                    if n % 3 == 0:
                        c.do('MOVE 1 other')
                c.do('LOGOUT')
            except BaseException as e:
                errors.append(repr(e))
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not errors, errors
        with s.imap('bob') as c:
            c.select('INBOX')
            data = c.uid('FETCH', '1:*', '(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])')[1]
            uids = []
            for d in data:
                if isinstance(d, tuple):
                    uid = int(d[0].split(b'UID ')[1].split()[0])
                    uids.append(uid)
                    subject = d[1].decode().split(':')[1].strip()
                    assert seen.get(uid, subject) == subject, (uid, seen[uid], subject)
            assert uids == sorted(set(uids))


def hostile():
    """name -> message"""
    parts = b''.join(b'--b\r\nContent-Type: text/plain\r\n\r\npart %d\r\n' % i for i in range(10_000))
    deep = b''
    for i in range(1000):
        deep += b'Content-Type: multipart/mixed; boundary="d%d"\r\n\r\n--d%d\r\n' % (i, i)
    return {
        '10,000 parts': b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n' + parts + b'--b--\r\n',
        '1,000 deep': b'MIME-Version: 1.0\r\n' + deep + b'\r\nleaf\r\n',
        'NUL bytes': b'Subject: a\0b\r\nContent-Type: text/pl\0ain\r\n\r\n\0\0\0\r\n',
        'broken encodings': b'Subject: =?utf-8?B?////?= =?nonsense?Q?=ZZ?=\r\nContent-Type: text/plain; charset=x-none\r\n'
                            b'Content-Transfer-Encoding: base64\r\n\r\n!!!notbase64%%%\r\n',
        'long header': b'Subject: ' + b'x' * 200_000 + b'\r\n\r\nbody\r\n',
        'many headers': b''.join(b'X-%d: y\r\n' % i for i in range(20_000)) + b'\r\nbody\r\n',
        'addresses': b'To: ' + b'a@b.test, ' * 20_000 + b'\r\nFrom: ((((((((((x\r\n\r\nbody\r\n',
        'boundary lines': b'Content-Type: multipart/mixed; boundary=""\r\n\r\n' + b'--\r\n' * 50_000,
        'no line ends': b'Subject: x\r\n\r\n' + b'y' * 2_000_000 + b'\r\n',
    }


def test_hostile_messages():
    """They are stored as they came, every client command on them answers, and nobody else waits."""
    with Server(workers=1) as s:
        s.users('bob').start()
        worst, stop = [0.0], threading.Event()

        def beside():
            with Conn(s.port('smtp')) as c:
                c.reply()
                while not stop.is_set():
                    begun = time.monotonic()
                    c.cmd('NOOP')
                    worst[0] = max(worst[0], time.monotonic() - begun)
                    time.sleep(0.001)
        t = threading.Thread(target=beside)
        t.start()
        try:
            texts = hostile()
            for text in texts.values():
                with Conn(s.port('smtp'), 60) as c:
                    c.reply()
                    c.cmd('EHLO c')
                    c.cmd('MAIL FROM:<>')
                    c.cmd('RCPT TO:<bob@example.test>')
                    c.cmd('DATA')
                    c.send(text + b'.\r\n')
                    assert c.reply().startswith('250'), text[:60]
            imaplib._MAXLINE = 1 << 26
            with s.imap('bob') as c:
                c.select('INBOX')
                for n, (name, text) in enumerate(texts.items(), 1):
                    for what in ('(ENVELOPE)', '(BODYSTRUCTURE)', '(BODY.PEEK[1])', '(BODY.PEEK[HEADER])', '(RFC822.SIZE)'):
                        kind, _ = c.fetch(str(n), what)
                        assert kind == 'OK', (name, what)
                    kind, data = c.fetch(str(n), '(BODY.PEEK[])')
                    raw = data[0][1]
                    body = text.split(b'\r\n\r\n', 1)[1]
                    assert raw.endswith(body), (name, len(raw), len(body))
                for key in ('TEXT "part 77"', 'SUBJECT "x"', 'BODY "leaf"', 'HEADER X-5 "y"'):
                    assert c.search(None, key)[0] == 'OK', key
        finally:
            stop.set()
            t.join()
        print(f'figure hostile messages: a session beside them waited at most {worst[0] * 1000:.0f} ms')
        assert worst[0] < 0.5, worst[0]


def test_scram_over_plain_connection():
    """SCRAM-SHA-256 as a client of our own computes it (RFC 7677)."""
    import hashlib
    import hmac

    def exchange(c, password):
        first = 'n=bob,r=rOprNGfwEbeRWgbNEkqO'
        c.send('a AUTHENTICATE SCRAM-SHA-256 ' + base64.b64encode(b'n,,' + first.encode()).decode() + '\r\n')
        line = c.line()
        assert line.startswith('+ '), line
        server = base64.b64decode(line[2:]).decode()
        fields = dict(f.split('=', 1) for f in server.split(','))
        assert fields['r'].startswith('rOprNGfwEbeRWgbNEkqO')
        salted = hashlib.pbkdf2_hmac('sha256', password.encode(), base64.b64decode(fields['s']), int(fields['i']))
        client_key = hmac.digest(salted, b'Client Key', 'sha256')
        stored = hashlib.sha256(client_key).digest()
        bare = f'c=biws,r={fields["r"]}'
        auth = f'{first},{server},{bare}'.encode()
        proof = bytes(a ^ b for a, b in zip(client_key, hmac.digest(stored, auth, 'sha256')))
        c.send(base64.b64encode(f'{bare},p={base64.b64encode(proof).decode()}'.encode()).decode() + '\r\n')
        line = c.line()
        if not line.startswith('+ '):
            return line
        verifier = base64.b64decode(line[2:]).decode()
        key = hmac.digest(hmac.digest(salted, b'Server Key', 'sha256'), auth, 'sha256')
        assert verifier == 'v=' + base64.b64encode(key).decode()
        c.send('\r\n')
        line = c.line()
        while not line.startswith('a '):
            line = c.line()
        return line
    with Server(workers=1) as s:
        s.users('bob').start()
        for password, want in (('secret', 'a OK'), ('wrong', 'a NO')):
            with Conn(s.port('imap')) as c:
                c.line()
                assert exchange(c, password).startswith(want)


def test_many_idle_sessions():
    """1,000 sessions in IDLE all hear of an arrival."""
    with Server(workers=2) as s:
        s.users('bob')
        s.cli('setting', 'set', 'imap.max_sessions_per_user', 0)
        s.cli('setting', 'set', 'imap.max_sessions_per_client', 0)
        s.cli('setting', 'set', 'imap.max_sessions', 0)
        s.start()
        conns = []
        for _ in range(1000):
            c = Imap(s)
            c.send('i IDLE\r\n')
            assert c.line().startswith('+')
            conns.append(c)
        begun = time.monotonic()
        s.send()
        for c in conns:
            while not c.line().endswith(' EXISTS'):
                pass
        print(f'figure idle: 1,000 sessions told after {(time.monotonic() - begun) * 1000:.0f} ms')
        wait_until(lambda: s.answers(), 5, 'SMTP beside them')


main(globals())
