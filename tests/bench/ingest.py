"""Mail in: our server and its peers in turn, the same load client, messages counted in the mailboxes.

usage: ingest.py [--quick] [--runs N] [--case WORD]... [--match TEXT]      TEXT: only rates with it in their title
Cases: rate (several connections and sizes, with and without reuse), mdbox, flush (WAL flushes a message,
with and without a flush delayed by 2 ms), large (50 MB messages beside small ones), memory (PSS during and
after 50,000 messages).  The figure of a rate case is ours over the peer's, median of the rounds; every
round measures each server once, one after the other, on mailboxes of its own."""
import argparse
import time

import peers
from common import Counter, DOMAIN, figure, load, load_result, median, private_kb, pss_kb, server, \
    slow_flush_library

USERS = 10
PREFIXES = 'abcdefghijklmnopqrstuvwxyz'
REPORT_SECONDS = 11  # idle backends hand in their statistics after 10 s
serial = 0
match = ''


class Ours:
    name = 'moonpost'

    def __init__(self, rounds, env=None):
        self.server = server(env=env)
        self.rounds = rounds

    def start(self):
        self.server.start()
        self.smtp = self.server.port('smtp')
        return self

    def pids(self):
        return self.server.pids()

    def counter(self, names):
        for n in names:
            self.server.cli('user', 'add', n, '--password', 'bench', check=False)
        return Counter(self.server.port('imap'), names)

    def flushes(self):
        return int(self.server.sql('select wal_sync from pg_stat_wal')[0][0])

    def stop(self):
        self.server.remove()


def fresh():
    """A prefix of user names that nobody has had mail for."""
    global serial
    serial += 1
    return f'r{serial}x'


def one_run(peer, conns, count, size, reuse):
    """Messages a second, from the first connection until the last message is in its mailbox."""
    prefix = fresh()
    counter = peer.counter([f'{prefix}{i}' for i in range(USERS)])
    before = counter.total()
    r = load(peer.smtp, conns, count, size, f'{prefix}:{USERS}', reuse, seed=serial)
    end = counter.wait(before + count)
    counter.close()
    return count / (end - r['start']), r


def compare(title, ours, others, goals, conns, counts, size, reuse, runs):
    """Interleaved rounds; one figure a peer."""
    if match not in title:
        return
    rates = {p.name: [] for p in [ours, *others]}
    for _ in range(runs):
        for p in [ours, *others]:
            rate, r = one_run(p, conns, counts.get(p.name, counts['*']), size, reuse)
            rates[p.name].append(round(rate, 1))
    for p in others:
        ratios = [a / b for a, b in zip(rates[ours.name], rates[p.name])]
        goal = goals.get(p.name)
        figure(f'ingest {title} vs {p.name}', median(ratios), 'x', goal and f'>= {goal}',
               goal and median(ratios) >= goal, ours=rates[ours.name], peer=rates[p.name])


def rates(runs, scale, smtpd):
    ours = Ours(runs).start()
    others = [peers.PostfixDovecot().start()]
    pd = others[0].name
    if smtpd:
        others.append(smtpd)
    os_ = 'opensmtpd'
    try:
        counts = {'*': int(600 * scale), 'moonpost': int(5000 * scale)}
        one_run(ours, 10, 1000, 4096, True)  # both have forked what they need and filled their caches
        for p in others:
            one_run(p, 10, 200, 4096, True)
        compare('4 KB, 10 connections, reused', ours, others, {pd: 8, os_: 5}, 10, counts, 4096, True, runs)
        compare('4 KB, 50 connections, reused', ours, others, {pd: 8, os_: 5}, 50, counts, 4096, True, runs)
        compare('4 KB, 10 connections, one message each', ours, others[:1], {pd: 8}, 10, counts, 4096, False, runs)
        compare('4 KB, 50 connections, one message each', ours, others[:1], {pd: 8}, 50, counts, 4096, False, runs)
        counts = {'*': int(500 * scale), 'moonpost': int(1500 * scale)}
        compare('4 KB, 1 connection, reused', ours, others, {pd: 3, os_: 3}, 1, counts, 4096, True, runs)
        compare('64 KB, 10 connections, reused', ours, others, {pd: 4}, 10, counts, 65536, True, runs)
        compare('64 KB, 50 connections, reused', ours, others, {pd: 4}, 50, counts, 65536, True, runs)
    finally:
        ours.stop()
        others[0].stop()


def mdbox(runs, scale):
    ours = Ours(runs).start()
    peer = peers.PostfixDovecot('mdbox').start()
    try:
        counts = {'*': int(800 * scale), 'moonpost': int(5000 * scale)}
        one_run(ours, 10, 1000, 4096, True)
        one_run(peer, 10, 200, 4096, True)
        for conns in (10, 50):
            compare(f'4 KB, {conns} connections, reused', ours, [peer], {peer.name: 6}, conns, counts, 4096,
                    True, runs)
    finally:
        ours.stop()
        peer.stop()


def flush(runs, scale):
    """WAL flushes a message at 50 connections; the delay stands for a disk that needs 2 ms."""
    for delay in (0, 2):
        env = dict(LD_PRELOAD=str(slow_flush_library()), POWERCUT_DELAY_MS=str(delay)) if delay else None
        ours = Ours(runs, env=env).start()
        try:
            one_run(ours, 50, 500, 4096, True)
            time.sleep(REPORT_SECONDS)
            before, count, speed, p99 = ours.flushes(), int(5000 * scale), [], []
            for _ in range(runs):
                prefix = fresh()
                counter = ours.counter([f'{prefix}{i}' for i in range(USERS)])
                r = load(ours.smtp, 50, count, 4096, f'{prefix}:{USERS}', True, seed=serial)
                counter.wait(count)
                counter.close()
                speed.append(r['rate'])
                p99.append(r['p99_ms'])
            time.sleep(REPORT_SECONDS)
            each = (ours.flushes() - before) / (count * runs)
            goal = dict(goal='< 0.2', ok=each < 0.2) if delay else {}
            figure(f'WAL flushes a message, 50 connections, flush delayed {delay} ms', each, **goal,
                   rate=speed, p99_ms=p99)
        finally:
            ours.stop()


def large(runs, scale):
    """p99 of small messages while ten of 50 MB arrive at once, over p99 without them."""
    ours = Ours(runs).start()
    try:
        one_run(ours, 10, 1000, 4096, True)
        ratios, rows = [], []
        for _ in range(runs):
            prefix = fresh()
            ours.counter([f'{prefix}{i}' for i in range(USERS)]).close()
            who = f'{prefix}:{USERS}'
            alone = load(ours.smtp, 10, int(6000 * scale), 4096, who, True, seed=serial)
            big = load(ours.smtp, 10, 10, 49_900_000, who, True, seed=serial + 5000, wait=False)
            time.sleep(0.3)
            beside = load(ours.smtp, 10, int(6000 * scale), 4096, who, True, seed=serial + 6000)
            still = big.poll() is None
            r = load_result(big)
            ratios.append(beside['p99_ms'] / alone['p99_ms'])
            rows.append(dict(alone=alone['p99_ms'], beside=beside['p99_ms'], big_seconds=round(r['end'] - r['start'], 1),
                             small_seconds=round(beside['end'] - beside['start'], 1), big_outlasted=still))
        figure('p99 of 4 KB messages beside ten of 50 MB', median(ratios), 'x', '<= 2', median(ratios) <= 2, runs=rows)
    finally:
        ours.stop()


def memory(runs, scale):
    """PSS under load and after; flat over 50,000 messages."""
    del runs
    ours = Ours(1).start()
    peer = peers.PostfixDovecot().start()
    total, step = int(50_000 * scale), int(10_000 * scale)
    try:
        buffers = ours.server.sql('show shared_buffers')[0][0]

        def during(p, count):
            prefix = fresh()
            counter = p.counter([f'{prefix}{i}' for i in range(USERS)])
            process = load(p.smtp, 50, count, 4096, f'{prefix}:{USERS}', True, seed=serial, wait=False)
            peak = 0
            while process.poll() is None:
                peak = max(peak, pss_kb(p.pids()))
                time.sleep(0.2)
            load_result(process)
            counter.wait(count)
            counter.close()
            return peak
        idle = pss_kb(ours.pids()), pss_kb(peer.pids())
        series, private = [], []
        for _ in range(total // step):
            series.append(during(ours, step))
            private.append(private_kb(ours.pids()))
        theirs = [during(peer, int(1500 * max(scale, 0.3))) for _ in range(2)]
        figure('PSS under load vs postfix+dovecot', max(series) / max(theirs), 'x', '<= 1',
               max(series) <= max(theirs), ours_mb=[round(x / 1024, 1) for x in series],
               peer_mb=[round(x / 1024, 1) for x in theirs], shared_buffers=buffers,
               idle_mb=[round(x / 1024, 1) for x in idle])
        half = len(series) // 2  # by then the buffers are full
        figure('PSS growth in the second half', series[-1] / series[half], 'x', '<= 1.1',
               series[-1] <= 1.1 * series[half])
        figure('PSS without shared segments, growth in the second half', private[-1] / private[half], 'x',
               '<= 1.1', private[-1] <= 1.1 * private[half], mb=[round(x / 1024, 1) for x in private])
    finally:
        ours.stop()
        peer.stop()


def main():
    a = argparse.ArgumentParser()
    a.add_argument('--quick', action='store_true')
    a.add_argument('--runs', type=int, default=3)
    a.add_argument('--case', action='append')
    a.add_argument('--match', default='')
    o = a.parse_args()
    global match
    match = o.match
    scale = 0.3 if o.quick else 1
    runs = 1 if o.quick else o.runs
    wanted = o.case or ['rate', 'mdbox', 'flush', 'large', 'memory']
    if 'rate' in wanted:
        smtpd = peers.OpenSMTPD()
        try:
            smtpd.start()
        except Exception as e:  # no overlayfs here: the other peer is still measured
            print(f'SKIPPED opensmtpd: {e}')
            smtpd = None
        try:
            rates(runs, scale, smtpd)
        finally:
            if smtpd:
                smtpd.stop()
    for name, fn in (('mdbox', mdbox), ('flush', flush), ('large', large), ('memory', memory)):
        if name in wanted:
            fn(runs, scale)


if __name__ == '__main__':
    main()
