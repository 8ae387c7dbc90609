#!/usr/bin/env python3
"""A worker that no longer turns its loop is ended and replaced; a worker that dies takes only its own
sessions along; a supervisor that dies takes everything along."""
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Conn, main, wait_until  # noqa: E402


def test_silent_worker_is_replaced():
    with Server(workers=1) as s:
        s.users('bob').start()
        (victim,) = [p for p in s.pids('worker')
                     if any(f'[{p}] app: ready' in line and ' mail.' in line
                                                 for line in s.log().splitlines())]
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: victim not in s.pids('worker'), 30, 'the watchdog')
        wait_until(s.answers, 20, 'the new worker')
        assert 'has been silent for 10 s' in s.log()
        s.send()
        assert len(s.bodies('bob')) == 1


def test_dead_worker_drops_only_its_sessions():
    with Server(workers=2) as s:
        s.users('bob').start()
        conns = [Conn(s.port('smtp')) for _ in range(12)]
        for c in conns:
            c.reply()
        victim = next(int(line.split('[')[1].split(']')[0]) for line in s.log().splitlines()
                      if ' mail.0[' in line and 'ready' in line)
        os.kill(victim, signal.SIGKILL)
        alive = 0
        for c in conns:
            try:
                alive += c.cmd('NOOP').startswith('250')
            except (EOFError, OSError):
                pass
        assert 0 < alive < 12, alive
        wait_until(lambda: s.log().count('mail.0[') > 2 and s.answers(), 20, 'the successor')
        assert s.log().count('ended by signal 9') == 1


def test_dead_supervisor_takes_all_along():
    with Server(workers=2) as s:
        s.users('bob').start()
        (supervisor,) = s.pids('supervisor')
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: not s.pids(), 30, 'all processes to end')
        s.process.wait()
        s.start()
        s.send()
        assert len(s.bodies('bob')) == 1


def test_second_server_is_refused():
    with Server(workers=1) as s:
        s.users('bob').start()
        other = Server(workers=1, data=s.folder)
        other.start(wait=False)
        assert other.process.wait(30) == 3
        assert 'running' in s.log() or 'in use' in s.log()
        s.send()


def put(s, text):
    path = s.folder / 'script.lua'
    path.write_text(text)
    s.cli('script', 'put', 'SMTPSVR.LUA', path)


def stop_worker_in_hook(s, begin):
    """Runs begin(), stops the worker while the hook is under way, waits for its successor."""
    before = s.pids('worker')
    begin()
    mail = [p for p in before if f' mail.0[{p}] app: ready' in s.log()]
    wait_until(lambda: 'in the hook' in s.log().splitlines()[-1] or s.log().count('in the hook') > begin.seen, 10,
               'the hook to begin')
    begin.seen = s.log().count('in the hook')
    os.kill(mail[-1], signal.SIGSTOP)
    wait_until(lambda: mail[-1] not in s.pids('worker'), 30, 'the watchdog')
    wait_until(s.answers, 20, 'the successor')


def kill_twice(s, begin, mark):
    """A stop may fall between two slices of the hook, and then counts for nobody."""
    for _ in range(6):
        if s.log().count(mark) == 2:
            return
        stop_worker_in_hook(s, begin)
    assert s.log().count(mark) == 2


def test_killing_hook_and_message_are_taken_out():
    """After two kills in the same hook it is switched off until it is edited; after two kills over the same
    message that is accepted on hold, without hooks."""
    with Server(workers=1) as s:
        s.users('bob').start()
        put(s, 'function DoHELP() VPOP3.Log("in the hook") while true do end end')
        held = []

        def ask():
            c = Conn(s.port('smtp'))
            c.reply()
            c.send('HELP\r\n')
            held.append(c)
        ask.seen = 0
        kill_twice(s, ask, '(hook SMTPSVR_DoHELP,')
        with Conn(s.port('smtp')) as c:
            c.reply()
            assert c.cmd('HELP').startswith('214 2.0.0'), 'the shipped answer'
        assert 'is switched off' in s.log()
        put(s, 'function DoHELP() return "214 edited" end')

        def help_text():
            with Conn(s.port('smtp')) as c:
                c.reply()
                return c.cmd('HELP')
        wait_until(lambda: help_text() == '214 edited', 5, 'the edited hook')

        put(s, 'function ProcessMessage(f, subject, r, a) if subject == "killer" then VPOP3.Log("in the hook") '
            'while true do end end return a, "" end')

        def deliver():
            c = Conn(s.port('smtp'))
            c.reply()
            for line in ('EHLO c', 'MAIL FROM:<a@b.test>', 'RCPT TO:<bob@example.test>', 'DATA'):
                c.cmd(line)
            c.send('Subject: killer\r\n\r\nx\r\n.\r\n')
            held.append(c)
        deliver.seen = s.log().count('in the hook')
        kill_twice(s, deliver, '(hook SMTPSVR_ProcessMessage,')
        deliver()
        assert held[-1].reply().startswith('250 ')
        assert 'accepted on hold' in s.log()
        assert s.bodies('bob') == []
        s.send(text='Subject: harmless\r\n\r\nx\r\n')
        assert len(s.bodies('bob')) == 1


main(globals())
