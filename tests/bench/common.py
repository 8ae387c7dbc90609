"""What the benchmarks share: building the helpers, memory of processes, IMAP counting, printing figures."""
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / 'tests' / 'support'))
from harness import Server, Conn, wait_until  # noqa: E402,F401

WORK = pathlib.Path('/tmp/moonpost-bench')
DOMAIN = 'bench.test'
PASSWORD = 'bench'


def build(name, *flags, source=None):
    """Compiles a C helper into the work folder; returns its path."""
    WORK.mkdir(mode=0o755, exist_ok=True)
    out = WORK / name
    source = source or HERE / f'{name}.c'
    if not out.exists() or out.stat().st_mtime < pathlib.Path(source).stat().st_mtime:
        subprocess.run(['gcc', '-O2', '-w', '-o', str(out), str(source), *flags], check=True)
    return out


def slow_flush_library():
    """tests/support/powercut.c as a library to preload: delays every flush."""
    return build('powercut.so', '-shared', '-fPIC', '-ldl', source=ROOT / 'tests/support/powercut.c')


def load(port, conns, count, size, users, reuse=True, seed=1, wait=True):
    """Runs the load client.  users: 'prefix:count'.  Its JSON, or with wait=False the process."""
    words = [str(build('smtp_load')), '--port', port, '--conns', conns, '--count', count, '--size', size,
             '--users', users, '--domain', DOMAIN, '--seed', seed]
    if not reuse:
        words.append('--no-reuse')
    p = subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, text=True)
    return load_result(p) if wait else p


def load_result(process):
    out = process.communicate()[0]
    result = json.loads(out)
    if process.returncode != 0 or result['failed']:
        raise AssertionError(f'load client: {result}')
    return result


class Counter:
    """Counts messages by IMAP STATUS, one connection a user, until all are there."""

    def __init__(self, port, names):
        self.conns = {}
        for n in names:
            c = Conn(port, 60)
            c.line()
            c.send(f'a LOGIN {n}@{DOMAIN} {PASSWORD}\r\n')
            self._tagged(c)
            self.conns[n] = c

    @staticmethod
    def _tagged(c):
        lines = []
        while True:
            lines.append(c.line())
            if lines[-1].startswith('a '):
                if not lines[-1].startswith('a OK'):
                    raise AssertionError(lines[-1])
                return lines

    def one(self, name):
        c = self.conns[name]
        c.send('a STATUS INBOX (MESSAGES)\r\n')
        for line in self._tagged(c):
            if line.startswith('* STATUS'):
                return int(line.split('MESSAGES')[1].strip(' )'))
        return 0

    def total(self):
        return sum(self.one(n) for n in self.conns)

    def wait(self, total, seconds=120):
        """Monotonic time at which the mailboxes held `total` messages in sum."""
        end = time.monotonic() + seconds
        while True:
            got = self.total()
            if got >= total:
                if got > total:
                    raise AssertionError(f'{got} messages instead of {total}')
                return time.monotonic()
            if time.monotonic() > end:
                raise AssertionError(f'only {got} of {total} messages arrived')
            time.sleep(0.02)

    def close(self):
        for c in self.conns.values():
            c.close()


class FolderCounter:
    """The same for a peer without IMAP: files in its maildirs."""

    def __init__(self, folder, names):
        self.folders = [pathlib.Path(folder) / n / 'new' for n in names]

    def total(self):
        return sum(len(os.listdir(f)) for f in self.folders if f.is_dir())

    wait = Counter.wait

    def close(self):
        pass


def pss_kb(pids):
    """Proportional set size of the processes in KB."""
    total = 0
    for pid in pids:
        try:
            for line in open(f'/proc/{pid}/smaps_rollup'):
                if line.startswith('Pss:'):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def private_kb(pids):
    """As pss_kb, without shared memory segments that are mapped by all (PostgreSQL's buffers)."""
    total = 0
    for pid in pids:
        try:
            for line in open(f'/proc/{pid}/smaps_rollup'):
                if line.startswith(('Pss_Anon:', 'Pss_File:')):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def descendants(root):
    """The process and all below it."""
    parents = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                parents[int(name)] = int(open(f'/proc/{name}/stat').read().rsplit(')', 1)[1].split()[1])
            except OSError:
                pass
    found, grown = {root}, True
    while grown:
        more = {p for p, pp in parents.items() if pp in found} - found
        grown = bool(more)
        found |= more
    return found


def median(values):
    return statistics.median(values)


def figure(name, value, unit='', goal=None, ok=None, **more):
    """One figure: a JSON line, and with a goal whether it is met."""
    row = dict(figure=name, value=round(value, 4) if isinstance(value, float) else value, unit=unit)
    if goal is not None:
        row['goal'] = goal
        row['met'] = bool(ok)
    row.update(more)
    print(json.dumps(row), flush=True)
    results = os.environ.get('BENCH_RESULTS')
    if results:
        with open(results, 'a') as f:
            f.write(json.dumps(row) + '\n')
    return row


def server(workers=2, env=None, users=(), settings=()):
    """Our server with shipped policy and defaults; users NAME@bench.test."""
    s = Server(workers=workers, env=env)
    s.cli('domain', 'add', DOMAIN)
    for n in users:
        s.cli('user', 'add', n, '--password', PASSWORD)
    for name, value in settings:
        s.cli('setting', 'set', name, value)
    return s


def port_free(port):
    with socket.socket() as s:
        return s.connect_ex(('127.0.0.1', port)) != 0
