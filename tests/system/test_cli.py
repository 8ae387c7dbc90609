#!/usr/bin/env python3
"""The command line: each verb, its exit status and its JSON."""
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import BINARY, Server, main  # noqa: E402


def test_accounts():
    with Server() as s:
        assert s.cli('domain', 'add', 'example.test').returncode == 0
        assert s.cli('domain', 'add', 'example.test', check=False).returncode == 1
        assert json.loads(s.cli('domain', 'list', '--json').stdout) == [{'domain': 'example.test'}]
        s.cli('user', 'add', 'bob', '--password-stdin', '--admin', input='secret\n')
        assert s.cli('user', 'add', 'bob', '--password', 'x1234', check=False).returncode == 1
        assert s.cli('user', 'add', 'no spaces', '--password', 'x1234', check=False).returncode == 1
        (bob,) = json.loads(s.cli('user', 'list', '--json').stdout)
        assert bob['name'] == 'bob' and bob['admin'] is True and bob['messages'] == 0
        s.cli('user', 'set', 'bob', 'comment', 'with "quotes" and ümlaut')
        assert 'ümlaut' in s.cli('user', 'list').stdout
        assert s.cli('user', 'set', 'bob', 'nonsense', '1', check=False).returncode == 1
        assert s.cli('user', 'set', 'nobody-here', 'enabled', 'false', check=False).returncode == 1
        s.cli('mapping', 'add', 'a*@example.test', 'bob', '--comment', 'x')
        assert json.loads(s.cli('mapping', 'list', '--json').stdout) == [{'address': 'a*@example.test', 'target': 'bob'}]
        s.cli('mapping', 'remove', 'a*@example.test', 'bob')
        assert s.cli('mapping', 'remove', 'a*@example.test', 'bob', check=False).returncode == 1
        s.cli('access', 'add', 'imap', 'allow', '10.0.0.0/8', '--users', 'bob')
        (rule,) = json.loads(s.cli('access', 'list', '--json').stdout)
        assert rule['network'] == '10.0.0.0/8' and rule['users'] == 'bob'
        assert s.cli('access', 'add', 'imap', 'allow', '10.0.0.0/99', check=False).returncode == 1
        s.cli('access', 'remove', rule['id'])
        s.cli('user', 'remove', 'bob')
        assert json.loads(s.cli('user', 'list', '--json').stdout) == []


def test_settings():
    with Server() as s:
        s.cli('setting', 'set', 'smtp.max_errors', '7')
        (x,) = json.loads(s.cli('setting', 'get', 'smtp.max_errors', '--json').stdout)
        assert x['value'] == '7' and x['default'] == '20' and x['description']
        assert s.cli('setting', 'set', 'smtp.max_errors', 'many', check=False).returncode == 1
        assert s.cli('setting', 'set', 'smtp.max_errors', '0', check=False).returncode == 1
        assert s.cli('setting', 'get', 'nothing', check=False).returncode == 1
        all_of_them = json.loads(s.cli('setting', 'list', '--json').stdout)
        assert len(all_of_them) > 40 and all(x['description'] and x['type'] for x in all_of_them)


def test_messages():
    """import of .eml files and maildirs with flags, source, trace, queue."""
    with Server() as s:
        s.users('bob').start()
        eml = s.folder / 'one.eml'
        eml.write_bytes(b'Subject: one\nX: y\n\nbody\nwith LF\n')
        box = s.folder / 'maildir'
        for sub in ('cur', 'new', 'tmp'):
            (box / sub).mkdir(parents=True)
        (box / 'cur' / '1.a:2,FS').write_bytes(b'Subject: two\r\n\r\nbody\r\n')
        (box / 'new' / '2.b').write_bytes(b'no header at all\n')
        s.cli('message', 'import', 'bob', eml, box, '--mailbox', 'Old/Mail')
        assert s.cli('message', 'import', 'bob', s.folder / 'missing', check=False).returncode == 1
        with s.imap('bob') as c:
            assert c.select('Old/Mail')[1] == [b'3']
            flags = {c.fetch(str(n), '(BODY.PEEK[HEADER.FIELDS (SUBJECT)])')[1][0][1].strip():
                     c.fetch(str(n), '(FLAGS)')[1][0] for n in (1, 2, 3)}
            assert b'\\Flagged' in flags[b'Subject: two'] and b'\\Seen' in flags[b'Subject: two']
            whole = c.fetch('1:3', '(BODY.PEEK[])')[1]
            assert any(d[1] == b'Subject: one\r\nX: y\r\n\r\nbody\r\nwith LF\r\n' for d in whole if isinstance(d, tuple))
        head = s.sql("select id from head where encode(bytes, 'escape') like 'Subject: two%'")[0][0]
        raw = subprocess.run([BINARY, 'message', 'source', head, '--data', s.data], capture_output=True).stdout
        assert raw == b'Subject: two\r\n\r\nbody\r\n'
        assert s.cli('message', 'source', '999999999', check=False).returncode == 1
        assert s.cli('message', 'trace', 'unknown', check=False).returncode == 1
        s.cli('setting', 'set', 'smtp.relay_networks', '127.0.0.1')
        with s.smtp() as c:
            c.ehlo()
            while True:
                c.mail('bob@example.test')
                if c.rcpt('x@far.test')[0] == 250:
                    break
                c.rset()
            assert c.data(b'Subject: out\r\n\r\nx\r\n')[0] == 250
        (q,) = json.loads(s.cli('queue', 'list', '--json').stdout)
        assert (q['from'], q['to'], q['state']) == ('bob@example.test', 'x@far.test', 'wait')


def test_scripts():
    with Server() as s:
        s.users('bob').start()
        f = s.folder / 'x.lua'
        f.write_text('print("hello " .. 6 * 7)')
        assert s.cli('script', 'run', f).stdout.strip() == 'hello 42'
        f.write_text('function DoNOOP() return "250 hi" end')
        s.cli('script', 'put', 'SMTPSVR.LUA', f, '--note', 'a note')
        names = {x['name']: x for x in json.loads(s.cli('script', 'list', '--json').stdout)}
        assert any(n.lower().startswith('smtpsvr') and x['site'] for n, x in names.items()), names
        assert 'DoNOOP' in s.cli('script', 'get', 'smtpsvr.lua').stdout
        assert 'a note' in s.cli('script', 'history').stdout
        f.write_text('function (')
        assert s.cli('script', 'check', 'SMTPSVR.LUA', f, check=False).returncode == 1
        assert s.cli('script', 'get', 'no-such', check=False).returncode == 1
        spec = s.folder / 'x_spec.lua'
        spec.write_text('describe("x", function() it("adds", function() assert(1 + 1 == 2) end) '
                        'it("fails", function() assert(false) end) end)')
        r = s.cli('script', 'test', spec, check=False)
        assert r.returncode == 1 and '1 passed, 1 failed' in r.stdout, r.stdout


def test_server():
    with Server() as s:
        assert s.cli('status', check=False).returncode == 1
        s.users('bob').start()
        assert s.cli('status').returncode == 0
        assert s.cli('check').returncode == 0
        assert s.cli('stop').returncode == 0
        s.process.wait(10)
        assert s.cli('stop', check=False).returncode == 1
        assert s.cli('check').returncode == 0


def test_usage():
    for words in (['frobnicate'], ['user'], ['user', 'add'], ['serve', '--workers', 'many'], ['setting', 'get']):
        r = subprocess.run([BINARY, *words, '--data', '/tmp/mp-usage-unused/d'], capture_output=True, text=True)
        assert r.returncode == 2, (words, r)
    assert subprocess.run([BINARY, '--version'], capture_output=True).stdout.startswith(b'moonpost ')
    assert b'trace' in subprocess.run([BINARY, 'help'], capture_output=True).stdout


main(globals())
