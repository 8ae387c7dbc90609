#!/usr/bin/env python3
"""Kills at random moments under load: everything, the database, one backend, one worker.  Every
acknowledged message must be there exactly once.  MOONPOST_ROUNDS: how many kills (default 20)."""
import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Server, main, wait_until  # noqa: E402
from load import Load  # noqa: E402

ROUNDS = int(os.environ.get('MOONPOST_ROUNDS', '20'))
USERS = ['bob', 'carol', 'dave', 'erin']


def kill_all(s):
    s.kill()
    s.start()


def kill_database(s):
    for pid in s.pids('postgres'):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def kill_backend(s):
    # The backends that commit: those of the engine that are at work.
    s.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'moonpost_engine' "
          "and state <> 'idle' or random() < 0.3 and usename = 'moonpost_engine'")


def kill_worker(s):
    pids = s.pids('worker')
    if pids:
        os.kill(random.choice(pids), signal.SIGKILL)


def rounds(workers):
    with Server(workers=workers) as s:
        s.users(*USERS).start()
        load = Load(s, USERS).start()
        kinds = [kill_all, kill_database, kill_backend, kill_worker]
        for n in range(ROUNDS):
            before = load.count()
            wait_until(lambda: load.count() > before + 5, 60, f'mail to flow before kill {n}')
            time.sleep(random.random() * 0.3)
            kinds[n % 4](s)
        before = load.count()
        wait_until(lambda: load.count() > before + 20, 60, 'mail to flow after the last kill')
        load.stop()
        found = load.check(s.bodies)
        print(f'figure kills: {ROUNDS} kills, {workers} workers, {load.sent} sent, {load.count()} acknowledged, '
              f'{found} found')
        assert s.stop() == 0


def test_kills_with_two_workers():
    rounds(2)


def test_kills_with_one_worker():
    global ROUNDS
    keep, ROUNDS = ROUNDS, max(4, ROUNDS // 5)
    rounds(1)
    ROUNDS = keep


main(globals())
