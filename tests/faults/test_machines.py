#!/usr/bin/env python3
"""Two machines, one database: two installations with the same --dsn accept, serve and hear of each other."""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Conn, Server, main, wait_until  # noqa: E402
from test_database import external  # noqa: E402


def idle(s):
    c = Conn(s.port('imap'))
    c.line()
    for line in ('a LOGIN bob secret', 'b SELECT INBOX', 'i IDLE'):
        c.send(line + '\r\n')
        while not c.line().startswith(('a OK', 'b OK', '+')):
            pass
    return c


def test_two_machines():
    a, pg = external()
    b = Server(workers=2, dsn=pg.dsn)
    with a, b:
        a.start()
        b.start()
        wait_until(lambda: 'listening to other machines' in a.log() and 'listening to other machines' in b.log(), 10,
                   'the bus between them')
        for here, there in ((a, b), (b, a)):
            c = idle(here)
            begun = time.monotonic()
            there.send()
            while not c.line().endswith(' EXISTS'):
                pass
            took = time.monotonic() - begun
            assert took < 1, took
            print(f'figure two machines: arrival seen on the other after {took * 1000:.0f} ms')
        with a.smtp() as smtp:
            smtp.ehlo()
            smtp.mail('x@elsewhere.test')
            assert smtp.rcpt('late@example.test')[0] == 550
            b.cli('user', 'add', 'late', '--password', 'secret')
            assert smtp.rcpt('late@example.test')[0] == 250
        b.cli('user', 'set', 'late', '--password', 'changed')

        def changed():
            try:
                a.pop3('late', 'changed').quit()
                return True
            except Exception:
                return False
        wait_until(changed, 3, 'the new password on the other machine')
        b.cli('setting', 'set', 'smtp.max_message_size', 12345)

        def seen():
            with Conn(a.port('smtp')) as c:
                c.reply()
                return '12345' in c.cmd('EHLO c')
        wait_until(seen, 3, 'the setting on the other machine')
        b.stop()
        a.stop()
        pg.stop('fast')


if __name__ == '__main__':
    main(globals())
