#!/usr/bin/env python3
"""Clients that misbehave on purpose: what they cost, and that nobody else notices."""
import os
import pathlib
import resource
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Conn, main, wait_until  # noqa: E402


def ticks(s):
    """Processor time of all workers so far, in clock ticks."""
    total = 0
    for p in s.pids('worker'):
        fields = open(f'/proc/{p}/stat').read().rsplit(')', 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total


def memory(s):
    """Resident memory of the largest worker in MB."""
    return max(int(open(f'/proc/{p}/statm').read().split()[1]) * resource.getpagesize() >> 20
               for p in s.pids('worker'))


def reset(conn):
    """Closes so that the server gets a reset."""
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    conn.close()


def test_partial_lines_cost_nothing():
    """Clients that stop in mid-line, in mid-message or in mid-literal keep no processor busy."""
    with Server(workers=1) as s:
        s.users('bob').start()
        held = []
        for service, text in (('smtp', 'NO'), ('pop3', 'US'), ('imap', 'a LOG'), ('imap', 'a LOGIN {5}\r\nbo'),
                              ('smtp', 'EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nx'),
                              ('smtp', 'EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nx: y\r\n\r\n.'),
                              ('smtp', 'EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nBDAT 99\r\nx')):
            c = Conn(s.port(service))
            c.line()
            c.send(text)
            held.append(c)
        time.sleep(0.5)
        before = ticks(s)
        time.sleep(2)
        assert ticks(s) - before < 30, ticks(s) - before
        [c.close() for c in held]


def test_pipelining_in_one_tls_record():
    """A record larger than the input buffer is taken to its end."""
    with Server(workers=1) as s:
        s.users('bob').start()
        with Conn(s.port('smtps'), 20) as c:
            c.start_tls()
            c.reply()
            c.send('NOOP\r\n' * 2700)
            for _ in range(2700):
                assert c.reply().startswith('250 ')


def test_half_close():
    """printf '...' | nc: everything that was sent is handled, and every reply arrives."""
    with Server(workers=1) as s:
        s.users('bob').start()
        s.send(text='Subject: big\r\n\r\n' + 'x' * 70 + '\r\n' + ('y' * 70 + '\r\n') * 40_000)
        with Conn(s.port('pop3'), 20) as c:
            c.send('USER bob\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n')
            c.sock.shutdown(socket.SHUT_WR)
            data = b''
            while True:
                more = c.sock.recv(65536)
                if not more:
                    break
                data += more
            assert len(data) > 2_800_000 and data.rstrip().endswith(b'signing off'), (len(data), data[-100:])


def test_resets_while_writing():
    """Clients that read half a message and reset, in every protocol; the mailbox is free at once after."""
    with Server(workers=1) as s:
        s.users('bob')
        s.cli('setting', 'set', 'pop3.max_sessions_per_client', 0)
        s.start()
        s.send(text='Subject: big\r\n\r\n' + ('y' * 70 + '\r\n') * 40_000)
        for n in range(30):
            def signed_in():
                c = Conn(s.port('pop3'))
                c.send('USER bob\r\nPASS secret\r\n')
                c.line(), c.line()
                if c.line().startswith('+OK'):
                    return c
                c.close()
                return None
            c = wait_until(signed_in, 20, 'the mailbox')
            c.send('RETR 1\r\n' * (1 + n % 3) + 'QUIT\r\n' * (n % 2))
            c.sock.recv(1000 * n + 1)
            reset(c)
        for n in range(10):
            c = Conn(s.port('imap'))
            c.send('a LOGIN bob secret\r\nb SELECT INBOX\r\nc FETCH 1 BODY[]\r\n')
            c.sock.recv(5000 * n + 1)
            reset(c)
        assert len(s.bodies('bob')) == 1


def test_end_hook_that_takes_long():
    """End() uses several slices while the connection breaks: it runs once, and the session goes once."""
    with Server(workers=1) as s:
        s.users('bob')
        path = s.folder / 'script.lua'
        path.write_text('function End() local x = 0 for i = 1, 3000000 do x = x + i end end')
        s.cli('script', 'put', 'SMTPSVR.LUA', path)
        s.start()
        for n in range(12):
            c = Conn(s.port('smtp'))
            c.reply()
            c.send(('EHLO c\r\n', 'QUIT\r\n', 'NOOP\r\n' * 200, 'A' * 20000)[n % 4])
            reset(c) if n % 3 else c.close()
        s.send()
        assert len(s.bodies('bob')) == 1


def test_memory_of_a_session():
    """Commands without end in one session, and replies that nobody reads, do not pile up."""
    # AddressSanitizer keeps what was freed for a while
    quiet = os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=4:thread_local_quarantine_size_kb=64'
    with Server(workers=1, env={'ASAN_OPTIONS': quiet.strip(':')}) as s:
        s.users('bob')
        s.cli('setting', 'set', 'smtp.enable_vrfy', 'true')
        s.start()
        before = memory(s)
        with Conn(s.port('smtp'), 60) as c:
            c.reply()
            line = 'EHLO ' + 'x' * 250 + '\r\nVRFY bob@example.test\r\nMAIL FROM:<a@b.test>\r\nRSET\r\n'

            def read():
                try:
                    while c.sock.recv(1 << 20):
                        pass
                except OSError:
                    pass
            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            for _ in range(100):
                c.send(line * 100)
            c.send('QUIT\r\n')
            reader.join(60)
        grown = memory(s) - before
        # before sign-in: literals that are refused, and nobody reads the refusals
        c = Conn(s.port('imap'))
        c.sock.settimeout(0.3)
        try:
            for _ in range(4000):
                c.send('a LOGIN {99999999}\r\n' * 500)
        except (TimeoutError, ConnectionError):
            pass
        grown_imap = memory(s) - before
        c.close()
        assert grown < 40 and grown_imap < 40, (grown, grown_imap)
        s.send()


def test_starttls_forgets():
    """What was said in the clear, a sign-in too, is forgotten (RFC 3207 4.2)."""
    import base64
    with Server(workers=1) as s:
        s.users('bob').start()
        with Conn(s.port('smtp')) as c:
            c.reply()
            c.cmd('EHLO c')
            plain = base64.b64encode(b'\0bob\0secret').decode()
            assert c.cmd('AUTH PLAIN ' + plain).startswith('235 ')
            assert c.cmd('STARTTLS').startswith('220 ')
            c.start_tls()
            assert c.cmd('MAIL FROM:<bob@example.test>').startswith('503 ')
            assert 'AUTH ' in c.cmd('EHLO c')
            c.cmd('MAIL FROM:<bob@example.test>')
            assert c.cmd('RCPT TO:<x@elsewhere.test>').startswith('550 5.7.1')


def test_workers_hold_only_their_own_sockets():
    """A worker that was started while a command line client was connected has not inherited it."""
    import signal
    with Server(workers=1) as s:
        s.users('bob').start()
        held = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        held.connect(str(s.data / 'run' / 'control'))
        time.sleep(0.2)
        old = s.pids('worker')
        for p in old:
            os.kill(p, signal.SIGKILL)
        wait_until(lambda: len(s.pids('worker')) == len(old) and not set(old) & set(s.pids('worker')), 20,
                   'new workers')
        wait_until(s.answers, 20, 'the greeting')
        inodes = {line.split()[6] for line in open('/proc/net/unix') if str(s.data / 'run' / 'control') in line}
        for p in s.pids('worker'):
            for fd in os.listdir(f'/proc/{p}/fd'):
                try:
                    target = os.readlink(f'/proc/{p}/fd/{fd}')
                except FileNotFoundError:
                    continue
                assert target not in {f'socket:[{i}]' for i in inodes}, (p, fd, target)
        held.close()


main(globals())
