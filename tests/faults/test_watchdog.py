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


main(globals())
