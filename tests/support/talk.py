#!/usr/bin/env python3
"""Plays scripted conversations (tests/dialog/*.talk) with a real server.

Lines of a .talk file:
  # comment
  service NAME        connect to smtp, submission, smtps, pop3, imap ... (begins a conversation)
  C: text             the client sends text and CRLF; \\r \\n \\0 \\xNN \\\\ are escapes
  C-: text            the same without CRLF
  S: pattern          the next line must match; * is any run of characters
  S*: pattern         lines are read until one matches
  starttls            the client starts TLS
  closed              the server has closed the connection
All files of the folder run against one server with the users bob and carol (password secret) of the
domain example.test."""
import fnmatch
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Server, Conn, PORTS  # noqa: E402


def unescape(text):
    out, i, raw = bytearray(), 0, text.encode('utf8')
    simple = {ord('r'): 13, ord('n'): 10, ord('0'): 0, ord('\\'): 92, ord('t'): 9}
    while i < len(raw):
        if raw[i] == 92 and i + 1 < len(raw):
            if raw[i + 1] == ord('x'):
                out.append(int(raw[i + 2:i + 4], 16))
                i += 4
                continue
            if raw[i + 1] in simple:
                out.append(simple[raw[i + 1]])
                i += 2
                continue
        out.append(raw[i])
        i += 1
    return bytes(out)


def matches(line, pattern):
    rx = '.*'.join(re.escape(p) for p in pattern.split('*'))
    return re.fullmatch(rx, line, re.S) is not None


def play(server, path):
    state = [None]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        try:
            step(server, state, line, f'{path.name}:{number}')
        except (OSError, EOFError) as e:
            raise AssertionError(f'{path.name}:{number}: {line!r}: {e}')
    if state[0]:
        state[0].close()


def step(server, state, line, where):
    conn = state[0]
    word, _, rest = line.partition(' ')
    if word == 'service':
        if conn:
            conn.close()
        state[0] = Conn(server.port(rest.strip()))
    elif word == 'C:':
        conn.send(unescape(rest) + b'\r\n')
    elif word == 'C-:':
        conn.send(unescape(rest))
    elif word == 'S:':
        got = conn.line()
        assert matches(got, rest), f'{where}: expected {rest!r}, got {got!r}'
    elif word == 'S*:':
        seen = []
        while True:
            seen.append(conn.line())
            if matches(seen[-1], rest):
                break
            assert len(seen) < 1000, f'{where}: never saw {rest!r}'
    elif word == 'starttls':
        conn.start_tls()
    elif word == 'closed':
        assert conn.closed(), f'{where}: still open'
    else:
        raise AssertionError(f'{where}: what is {word!r}?')


def run():
    folder = pathlib.Path(__file__).resolve().parents[1] / 'dialog'
    wanted = sys.argv[1:]
    files = [f for f in sorted(folder.glob('*.talk'))
             if not wanted or any(fnmatch.fnmatch(f.name, f'*{w}*') for w in wanted)]
    failed = 0
    with Server(workers=2) as server:
        server.users('bob', 'carol').start()
        for f in files:
            try:
                play(server, f)
                print(f'ok      {f.name}')
            except (AssertionError, OSError, EOFError) as e:
                failed += 1
                print(f'FAILED  {f.name}: {e}')
        if failed:
            print(server.log()[-3000:])
    print(f'{len(files) - failed} passed, {failed} failed')
    sys.exit(1 if failed or not files else 0)


assert set(PORTS)  # the table is what `service` lines name
run()
