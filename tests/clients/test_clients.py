#!/usr/bin/env python3
"""Clients that we did not write (Debian's curl, swaks, msmtp, fetchmail, mbsync, mutt) send, read, flag,
move and delete; what is read is the body byte for byte, below the head as sent plus trace lines."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Skip, main  # noqa: E402

MESSAGE = ('From: Ada <ada@example.test>\r\nTo: bob@example.test\r\nSubject: client test\r\n'
           'Message-ID: <fixed@client.test>\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n'
           'MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n'
           'Content-Transfer-Encoding: 8bit\r\n')
BODY = 'line one\r\n.starts with a dot\r\n..two\r\nümläut\r\n\r\ntrailing blanks   \r\nlast\r\n'


def need(program):
    if not shutil.which(program):
        raise Skip(f'{program} is not installed')


def run(*words, input=None, env=None, ok=True, cwd=None):
    r = subprocess.run([str(w) for w in words], input=input, capture_output=True, timeout=60,
                       env=dict(os.environ, **(env or {})), cwd=cwd)
    if ok and r.returncode != 0:
        raise AssertionError(f'{words[0]} ended with {r.returncode}: {r.stdout[-1500:]!r} {r.stderr[-1500:]!r}')
    return r


def started():
    return Server(workers=2).users('ada', 'bob').start()


def check(raw, head=MESSAGE, body=BODY):
    """The message as read back against what was sent."""
    if isinstance(raw, str):
        raw = raw.encode()
    raw = raw.replace(b'\r\n', b'\n')
    top, rest = raw.split(b'\n\n', 1)
    want = head.encode().replace(b'\r\n', b'\n').rstrip(b'\n')
    assert top.endswith(want), top
    assert rest == body.encode().replace(b'\r\n', b'\n'), rest


def put(s, user='bob'):
    """A message into a user's INBOX by the shortest way."""
    s.send(to=f'{user}@example.test', text=(MESSAGE + '\r\n' + BODY).encode(), sender='ada@example.test')


def test_curl_sends_and_reads():
    need('curl')
    with started() as s:
        mail = s.folder / 'mail'
        mail.write_bytes((MESSAGE + '\r\n' + BODY).encode())
        for service, scheme, extra in (('smtp', 'smtp', []), ('submission', 'smtp', ['--ssl-reqd']),
                                       ('smtps', 'smtps', [])):
            run('curl', '-sSk', *extra, f'{scheme}://127.0.0.1:{s.port(service)}/client.test', '--user',
                'ada:secret', '--mail-from', 'ada@example.test', '--mail-rcpt', 'bob@example.test',
                '--upload-file', mail)
        for url in (f'pop3://127.0.0.1:{s.port("pop3")}/1', f'pop3s://127.0.0.1:{s.port("pop3s")}/2'):
            check(run('curl', '-sSk', url, '--user', 'bob:secret').stdout)
        for url in (f'imap://127.0.0.1:{s.port("imap")}/INBOX;MAILINDEX=1',
                    f'imaps://127.0.0.1:{s.port("imaps")}/INBOX;MAILINDEX=3'):
            check(run('curl', '-sSk', url, '--user', 'bob:secret').stdout)
        listing = run('curl', '-sSk', f'pop3://127.0.0.1:{s.port("pop3")}/', '--user', 'bob:secret').stdout
        assert listing.count(b'\n') == 3, listing
        run('curl', '-sSk', f'pop3://127.0.0.1:{s.port("pop3")}/1', '--user', 'bob:secret', '-X', 'DELE', '-l')
        assert len(s.bodies('bob')) == 2
        # SCRAM, without TLS and without a plain-text password
        run('curl', '-sSk', f'imap://127.0.0.1:{s.port("imap")}/INBOX;MAILINDEX=1', '--user', 'bob:secret',
            '--login-options', 'AUTH=SCRAM-SHA-256', ok=False)


def test_swaks_sends():
    need('swaks')
    with started() as s:
        run('swaks', '--server', f'127.0.0.1:{s.port("smtp")}', '--to', 'bob@example.test', '--from',
            'x@elsewhere.test', '--body', 'from swaks')
        run('swaks', '--server', f'127.0.0.1:{s.port("submission")}', '--tls', '--auth', 'LOGIN', '--auth-user',
            'ada', '--auth-password', 'secret', '--to', 'bob@example.test', '--from', 'ada@example.test',
            '--body', 'by submission')
        run('swaks', '--server', f'127.0.0.1:{s.port("smtp")}', '--pipeline', '--to',
            'bob@example.test,ada@example.test', '--from', 'x@elsewhere.test', '--body', 'pipelined')
        r = run('swaks', '--server', f'127.0.0.1:{s.port("smtp")}', '--to', 'x@elsewhere.test', '--from',
                'bob@example.test', ok=False)
        assert r.returncode != 0 and b'550 5.7.1' in r.stdout
        texts = b''.join(s.bodies('bob'))
        for t in (b'from swaks', b'by submission', b'pipelined'):
            assert t in texts


def test_msmtp_sends():
    need('msmtp')
    with started() as s:
        conf = s.folder / 'msmtprc'
        conf.write_text(f'account a\nhost 127.0.0.1\nport {s.port("submission")}\nfrom ada@example.test\nauth on\n'
                        f'user ada\npassword secret\ntls on\ntls_starttls on\ntls_certcheck off\n'
                        'account default : a\n')
        conf.chmod(0o600)
        run('msmtp', '-C', conf, 'bob@example.test',
            input=('Bcc: hidden@example.test\n' + MESSAGE + '\r\n' + BODY).replace('\r\n', '\n').encode())
        (m,) = s.bodies('bob')
        check(m)
        assert b'hidden' not in m


def test_fetchmail_reads():
    need('fetchmail')
    with started() as s:
        put(s)
        put(s)
        out = s.folder / 'fetched'
        rc = s.folder / 'fetchmailrc'
        for proto, service in (('pop3', 'pop3'), ('imap', 'imap')):
            rc.write_text(f'poll 127.0.0.1 service {s.port(service)} protocol {proto} user "bob" password "secret" '
                          f'sslproto "" keep fetchall mda "cat >>{out}"\n')
            rc.chmod(0o600)
            r = run('fetchmail', '-f', rc, '--nodetach', '--nosyslog', '--pidfile', s.folder / 'fm.pid', '--idfile',
                    s.folder / 'fetchids', env={'HOME': str(s.folder), 'FETCHMAILHOME': str(s.folder)}, ok=False)
            assert r.returncode in (0,), (proto, r.stdout, r.stderr)
        text = out.read_bytes()
        assert text.count(b'Subject: client test') == 4, text[:2000]
        assert text.replace(b'\r\n', b'\n').count(BODY.encode().replace(b'\r\n', b'\n')) == 4


def mbsync_conf(s, user='bob'):
    box = s.folder / 'sync'
    box.mkdir(exist_ok=True)
    conf = s.folder / 'mbsyncrc'
    conf.write_text(f'''IMAPAccount a
Host 127.0.0.1
Port {s.port("imap")}
User {user}
Pass secret
SSLType None
AuthMechs LOGIN

IMAPStore far
Account a

MaildirStore near
Path {box}/
Inbox {box}/INBOX
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
''')
    return conf, box


def test_mbsync_both_ways():
    """Fetches, flags, moves, deletes and uploads; a second run changes nothing."""
    need('mbsync')
    with started() as s:
        for _ in range(3):
            put(s)
        conf, box = mbsync_conf(s)
        run('mbsync', '-c', conf, '-a')
        files = sorted((box / 'INBOX' / 'new').iterdir())
        assert len(files) == 3
        raw = re.sub(rb'X-TUID: .*\r?\n', b'', files[0].read_bytes())
        check(raw)
        cur = box / 'INBOX' / 'cur'
        files[0].rename(cur / re.sub(r':2,.*|$', ':2,FS', files[0].name, count=1))  # flagged and seen
        files[1].rename(cur / re.sub(r':2,.*|$', ':2,T', files[1].name, count=1))  # deleted
        for sub in ('cur', 'new', 'tmp'):
            (box / 'Archive' / sub).mkdir(parents=True)
        (box / 'Archive' / 'cur' / 'own.1:2,S').write_bytes((MESSAGE + '\r\n' + BODY).replace('\r\n', '\n').encode())
        run('mbsync', '-c', conf, '-a')
        with s.imap('bob') as c:
            assert c.select('INBOX')[1] == [b'2']
            flags = c.fetch('1:*', '(FLAGS)')[1]
            assert any(b'\\Flagged' in f and b'\\Seen' in f for f in flags), flags
            assert c.select('Archive')[1] == [b'1']
            check(re.sub(rb'X-TUID: .*\r?\n', b'', c.fetch('1', '(BODY.PEEK[])')[1][0][1]))
        before = sorted(str(p) for p in box.rglob('*') if p.is_file() and not p.name.startswith('.'))
        run('mbsync', '-c', conf, '-a')
        assert before == sorted(str(p) for p in box.rglob('*') if p.is_file() and not p.name.startswith('.'))


def test_mutt_reads_and_moves():
    """mutt flags, moves and deletes by its commands."""
    need('mutt')
    with started() as s:
        for _ in range(3):
            put(s)
        rc = s.folder / 'muttrc'
        rc.write_text(f'''set folder="imap://bob@127.0.0.1:{s.port("imap")}/"
set spoolfile="+INBOX"
set imap_user="bob"
set imap_pass="secret"
set imap_authenticators="login"
set ssl_starttls=no
set ssl_force_tls=no
set quit=yes
set delete=yes
set move=no
set confirmcreate=no
set confirmappend=no
set mail_check=1
set header_cache=""
set wait_key=no
''')
        env = {'HOME': str(s.folder), 'TERM': 'xterm', 'MUTT': '1'}
        script = shutil.which('script')
        if not script:
            raise Skip('no program "script" for a terminal')
        keys = 'push "<flag-message><save-message>=Saved<enter><enter-command>set delete=yes<enter><sync-mailbox><quit>"'
        run('timeout', '20', 'script', '-qec', f'mutt -F {rc} -e \'{keys}\'', '/dev/null', env=env, ok=False,
            input=b'')
        with s.imap('bob') as c:
            n = int(c.select('INBOX')[1][0])
            kind, _ = c.select('Saved')
            assert kind == 'OK', 'mutt made no mailbox'
            saved = int(c.select('Saved')[1][0])
            assert (n, saved) == (2, 1), (n, saved)
            check(c.fetch('1', '(BODY.PEEK[])')[1][0][1])


def test_python_libraries():
    """smtplib, poplib and imaplib with TLS."""
    import imaplib
    import poplib
    import smtplib
    import ssl
    with started() as s:
        ctx = ssl._create_unverified_context()
        with smtplib.SMTP('127.0.0.1', s.port('submission'), local_hostname='c') as c:
            c.starttls(context=ctx)
            c.login('ada', 'secret')
            c.sendmail('ada@example.test', ['bob@example.test'], (MESSAGE + '\r\n' + BODY).encode())
        p = poplib.POP3('127.0.0.1', s.port('pop3'))
        p.stls(context=ctx)
        p.user('bob')
        p.pass_('secret')
        check(b'\r\n'.join(p.retr(1)[1]) + b'\r\n')
        assert p.top(1, 2)[1][-2:] == [b'line one', b'.starts with a dot']
        uid = p.uidl(1).split()[2]
        assert re.fullmatch(rb'[0-9a-f]{16}', uid), uid
        p.quit()
        i = imaplib.IMAP4_SSL('127.0.0.1', s.port('imaps'), ssl_context=ctx)
        i.login('bob', 'secret')
        i.select()
        kind, data = i.uid('SEARCH', 'TEXT', '"trailing blanks"')
        assert kind == 'OK' and data[0], data
        check(i.uid('FETCH', data[0].split()[0].decode(), '(BODY.PEEK[])')[1][0][1])
        i.logout()


main(globals())
