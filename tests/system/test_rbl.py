#!/usr/bin/env python3
"""DNS block lists and the client's name, with a DNS server of the test's own."""
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from fakedns import FakeDNS  # noqa: E402
from harness import Server, Conn, Skip, main, wait_until  # noqa: E402

LISTED = '550 5.7.1 Mail not allowed because client address 127.0.0.1 found in RBL entry on '
TABLE = {
    ('1.0.0.127.list.example', 'A'): ['127.0.0.2'],
    ('1.0.0.127.list.example', 'TXT'): ['see list.example'],
    ('1.0.0.127.other.example', 'A'): ['127.0.0.10'],
    ('1.0.0.127.parked.example', 'A'): ['198.51.100.7'],
    ('1.0.0.127.refuses.example', 'A'): ['127.255.255.254'],
    ('1.0.0.127.in-addr.arpa', 'PTR'): ['liar.example', 'client.example'],
    ('liar.example', 'A'): ['192.0.2.1'],
    ('client.example', 'A'): ['192.0.2.2', '127.0.0.1'],
    'silent.example': None,
}


def server(dns, settings, workers=1):
    s = Server(workers=workers)
    s.users('bob', 'carol')
    s.cli('setting', 'set', 'dns.servers', dns.server)
    s.cli('setting', 'set', 'smtp.rbl_skip_unauth', 'false')
    for name, value in settings.items():
        s.cli('setting', 'set', name, value)
    return s


def mail(s):
    with Conn(s.port('smtp')) as c:
        assert c.reply().startswith('220 ')
        c.cmd('EHLO c')
        return c.cmd('MAIL FROM:<a@b.test>')


def put(s, text):
    path = s.folder / 'script.lua'
    path.write_text(text)
    s.cli('script', 'put', 'SMTPSVR.LUA', path)


def test_refused():
    """Without further settings a listed client gets the documented words, and may still sign in."""
    with FakeDNS(TABLE) as dns, server(dns, {'smtp.rbl_servers': 'none.example list.example'}) as s:
        s.start()
        assert mail(s) == LISTED + 'list.example', mail(s)
        with s.smtp() as c:
            c.login('bob', 'secret')
            c.sendmail('bob@example.test', ['carol@example.test'], 'Subject: x\r\n\r\nx\r\n')
        assert len(s.bodies('carol')) == 1
        # a new setting is used without a restart
        s.cli('setting', 'set', 'smtp.rbl_servers', '')
        wait_until(lambda: mail(s).startswith('250 '), 5, 'the setting')


def test_which_answers_count():
    """A regular expression is searched in the address; without one only 127/8 counts, and not the
    codes by which lists refuse to serve."""
    cases = [('list.example(127.0.0.3)', False), ('list.example(127\\.0\\.0\\.[2-4])', True),
             ('other.example(^127\\.\\d+\\.0\\.(9|10)$)', True), ('parked.example', False),
             ('parked.example(^198)', True), ('refuses.example', False), ('list.example((', False)]
    with FakeDNS(TABLE) as dns, server(dns, {}) as s:
        s.start()
        for zones, listed in cases:
            s.cli('setting', 'set', 'smtp.rbl_servers', zones)
            wait_until(lambda: mail(s).startswith('550 5.7.1 Mail not' if listed else '250 '), 5, zones)
            # the next case must not pass by the answer of this one
            s.cli('setting', 'set', 'smtp.rbl_servers', '' if listed else 'list.example')
            wait_until(lambda: mail(s).startswith('250 ' if listed else '550 '), 5, 'the change')


def test_actions():
    """header marks the mail, redirect gives it to one user, blackhole throws it away."""
    with FakeDNS(TABLE) as dns, \
            server(dns, {'smtp.rbl_servers': 'list.example', 'smtp.rbl_action': 'header'}) as s:
        s.start()
        s.send(text='Subject: marked\r\n\r\nx\r\n')
        (m,) = s.bodies('bob')
        flat = m.replace(b'\r\n ', b' ').replace(b'\r\n\t', b' ')
        assert b'\r\nX-RBLFound: Sender address 127.0.0.1 found in RBL entry on list.example\r\n' in flat, m
        s.cli('setting', 'set', 'smtp.rbl_redirect', 'carol')
        s.cli('setting', 'set', 'smtp.rbl_action', 'redirect')
        time.sleep(1.5)
        s.send(text='Subject: redirected\r\n\r\nx\r\n')
        assert len(s.bodies('bob')) == 1 and b'redirected' in s.bodies('carol')[0]
        s.cli('setting', 'set', 'smtp.rbl_action', 'blackhole')
        time.sleep(1.5)
        s.send(text='Subject: gone\r\n\r\nx\r\n')
        assert len(s.bodies('bob')) == 1 and len(s.bodies('carol')) == 1


def test_exempt():
    """Whitelisted clients and, by the setting, local ones are not asked about."""
    with FakeDNS(TABLE) as dns, \
            server(dns, {'smtp.rbl_servers': 'list.example', 'smtp.rbl_whitelist': '10.* 127.0.*'}) as s:
        s.start()
        assert mail(s).startswith('250 ')
        s.cli('setting', 'set', 'smtp.rbl_whitelist', '')
        wait_until(lambda: mail(s).startswith('550 '), 5, 'the list')
        s.cli('setting', 'set', 'smtp.rbl_whitelist', '10.0.0.0/8, 127.0.0.0/8')
        wait_until(lambda: mail(s).startswith('250 '), 5, 'the network')
        s.cli('setting', 'set', 'smtp.rbl_whitelist', '')
        wait_until(lambda: mail(s).startswith('550 '), 5, 'the list')
        s.cli('setting', 'set', 'smtp.rbl_skip_unauth', 'true')
        wait_until(lambda: mail(s).startswith('250 '), 5, 'the exemption')


def test_script():
    """RBLResults sees what each zone said and may change the decision; Start may switch it off."""
    with FakeDNS(TABLE) as dns, \
            server(dns, {'smtp.rbl_servers': 'list.example\nother.example(127.0.0.99)\nno.example'}) as s:
        put(s, '''
function RBLResults()
  local seen = {}
  for zone, r in pairs(RBLResultInfo) do
    seen[#seen + 1] = zone .. "=" .. r.address .. "/" .. r.text .. "/" .. r.score
  end
  table.sort(seen)
  RBLRejectMessage = "554 " .. table.concat(seen, " ") .. " [" .. RBLRejectMessage .. "]"
end''')
        s.start()
        assert mail(s) == '554 list.example=127.0.0.2/see list.example/1 other.example=127.0.0.10//0 ' \
            '[' + LISTED + 'list.example]', mail(s)
        put(s, 'function RBLResults() RBLRejectMessage = "" RBLHeader = "X-Mine: yes" end')
        wait_until(lambda: mail(s).startswith('250 '), 3, 'the script')
        s.send()
        assert b'\r\nX-Mine: yes\r\n' in s.bodies('bob')[0]
        put(s, 'function RBLResults() RBLRejectMessage = "not a reply line" end')
        wait_until(lambda: mail(s) == '550 5.7.1 not a reply line', 3, 'the third script')
        put(s, 'function Start() CheckRBL = false return "" end')
        wait_until(lambda: mail(s).startswith('250 '), 3, 'the fourth script')
        put(s, 'function Start() RBLRejectMessage = "551 go away" return "" end')
        wait_until(lambda: mail(s) == '551 go away', 3, 'the fifth script')


def test_silence():
    """A list that never answers holds the greeting no longer than the setting says; the others count."""
    with FakeDNS(TABLE) as dns, server(dns, {'smtp.rbl_servers': 'silent.example list.example',
                                             'smtp.rbl_timeout': 2}) as s:
        s.start(wait=False)
        wait_until(lambda: 'ready' in s.log(), 60, 'the start')

        def greeted():
            try:
                begun = time.monotonic()
                with Conn(s.port('smtp')) as c:
                    assert c.reply().startswith('220 ')
                return time.monotonic() - begun
            except ConnectionError:
                return None
        took = wait_until(greeted, 20, 'the first greeting')
        assert 1.5 < took < 4, took
        assert mail(s) == LISTED + 'list.example'
        # clients that leave while DNS is silent
        for _ in range(20):
            Conn(s.port('smtp')).close()
        assert mail(s) == LISTED + 'list.example'


def own_address():
    """An address of this machine that is not loopback, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        try:
            u.connect(('192.0.2.1', 9))  # sends nothing
            return u.getsockname()[0]
        except OSError:
            return None


def test_reverse():
    """The name stands in Received and in ReverseDNS only when it leads back to the address."""
    own = own_address()
    if own is None or own.startswith('127.'):
        raise Skip('this machine has only loopback addresses, and those have a fixed name')
    pointer = '.'.join(reversed(own.split('.'))) + '.in-addr.arpa'
    table = {(pointer, 'PTR'): ['liar.example', 'client.example', 'not(a)name.example'],
             ('liar.example', 'A'): ['192.0.2.1'], ('client.example', 'A'): ['192.0.2.2', own]}
    with FakeDNS(table) as dns, server(dns, {'smtp.reverse_dns': 'true'}) as s:
        s.extra = ['--listen', own]
        s.answers = lambda: 'mail.0' in s.log() and s.log().count('app: ready') >= 2
        put(s, 'function Start() return "220 hello " .. ReverseDNS end')
        s.start()

        def session():
            sock = socket.create_connection((own, s.port('smtp')), 20)
            f = sock.makefile('rwb')
            greeting = f.readline()
            f.write(b'EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n'
                    b'Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n')
            f.flush()
            rest = f.read()
            assert b'250 2.0.0 Ok' in rest, rest
            sock.close()
            return greeting
        assert session() == b'220 hello client.example\r\n'
        head = s.sql("select convert_from(bytes, 'UTF8') from head")
        assert any('client.example' in r[0] and f'[{own}]' in r[0] for r in head), head
        del table[('client.example', 'A')]
        s.cli('setting', 'set', 'dns.trust_anchor_file', '/dev/null')  # a fresh resolver
        wait_until(lambda: session() == b'220 hello\r\n', 10, 'the name to be refused')


def test_monitor_bcc():
    """MonitorBcc gets the recipients that stand in no header; what it returns stands in the ledger."""
    with FakeDNS(TABLE) as dns, server(dns, {}) as s:
        put(s, 'function MonitorBcc(bccs) return {table.concat(bccs, "+")} end')
        s.start()
        s.send(to=['bob@example.test', 'carol@example.test'],
               text='To: "B" <BOB@Example.Test>\r\nSubject: x\r\n\r\nx\r\n')
        s.send(to='bob@example.test', text='Cc: x@y.test,\r\n bob@example.test\r\n\r\nx\r\n')
        steps = [r[0] for r in s.sql("select steps from ledger where steps::text like '%MonitorBcc%'")]
        assert len(steps) == 1 and '"monitor","carol@example.test"' in steps[0].replace(', ', ','), steps


main(globals())
