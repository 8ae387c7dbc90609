"""Runs the real program on a data folder and ports of its own; shared by all system tests.

A test file calls main(globals()): every function test_* runs, each gets what it asks for, and the
last line is 'N passed, N failed, N skipped'.  Nothing here sleeps for a fixed time: wait on conditions.
"""
import contextlib
import inspect
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get('MOONPOST', str(ROOT / 'build' / 'moonpost'))
SERVICE_USER = 'moonpost'
PORTS = dict(smtp=25, smtps=465, submission=587, pop3=110, pop3s=995, imap=143, imaps=993)


class Skip(Exception):
    """This test cannot run here; counted and said aloud."""


def wait_until(condition, seconds=20, what='condition'):
    """The first true value of condition(); fails after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'timed out waiting for {what}')
        time.sleep(0.02)


def _free_base():
    """A port base at which all our ports are free, below the range the kernel takes for clients."""
    for _ in range(200):
        base = random.randrange(10_000, 31_000)
        taken = []
        try:
            for port in PORTS.values():
                taken.append(socket.socket())
                taken[-1].bind(('127.0.0.1', base + port))
            return base
        except OSError:
            continue
        finally:
            [s.close() for s in taken]
    raise AssertionError('no free ports')


class Server:
    """One installation.  start() returns when SMTP answers."""

    def __init__(self, workers=2, single=False, dsn=None, env=None, data=None, args=()):
        self.folder = pathlib.Path(data or tempfile.mkdtemp(prefix='mp-', dir='/tmp'))
        os.chmod(self.folder, 0o755)
        self.data = self.folder / 'data'
        self.base = _free_base()
        self.workers, self.single, self.dsn = workers, single, dsn
        self.env = dict(os.environ, **(env or {}))
        self.extra = list(args)
        self.process = None
        self.log_path = self.folder / 'log'

    # --- the program
    def _where(self):
        return ['--dsn', self.dsn, '--data', str(self.data)] if self.dsn else ['--data', str(self.data)]

    def cli(self, *words, check=True, input=None):
        r = subprocess.run([BINARY, *map(str, words), *self._where()], text=True, input=input,
                           capture_output=True, env=self.env, timeout=120)
        if check and r.returncode != 0:
            raise AssertionError(f'moonpost {" ".join(map(str, words))}: {r.returncode}\n{r.stdout}{r.stderr}')
        return r

    def start(self, wait=True):
        words = [BINARY, 'serve', *self._where(), '--listen', '127.0.0.1', '--port-base', str(self.base),
                 '--workers', str(self.workers), *self.extra]
        if self.single:
            words.append('--single')
        self.process = subprocess.Popen(words, stdout=open(self.log_path, 'ab'), stderr=subprocess.STDOUT,
                                        env=self.env, start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=90):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f'server ended: {self.log()[-3000:]}')
            return self.answers()
        wait_until(ready, seconds, 'the SMTP greeting')

    def answers(self):
        """Does every worker greet?  (Each accepts from a socket of its own.)"""
        try:
            for _ in range(1 if self.single else self.workers * 2):
                with socket.create_connection(('127.0.0.1', self.port('smtp')), 2) as s:
                    s.settimeout(2)
                    if not s.recv(4).startswith(b'220'):
                        return False
            return True
        except OSError:
            return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError('server did not stop: ' + self.log()[-2000:])
        code = self.process.returncode if self.process else 0
        self.process = None
        return code

    def kill(self):
        """kill -9 of everything: supervisor, workers, database."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait(20)
        wait_until(lambda: not self.pids(), 20, 'the killed processes to go')
        self.process = None

    def sanitizers(self):
        """What AddressSanitizer and UBSan found (builds with -DSANITIZE=ON)."""
        log = self.log()
        at = min((i for i in (log.find('ERROR: AddressSanitizer'), log.find('ERROR: LeakSanitizer'),
                              log.find('runtime error:')) if i >= 0), default=-1)
        return log[at:at + 4000] if at >= 0 else ''

    def remove(self):
        with contextlib.suppress(AssertionError):
            self.stop()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            sys.stderr.write(f'--- server log ({self.folder}):\n{self.log()[-4000:]}\n')
        else:
            with contextlib.suppress(AssertionError):
                self.stop()
        found = self.sanitizers()
        self.remove()
        assert not found, found

    # --- looking in
    def port(self, service):
        return self.base + PORTS[service]

    def log(self):
        try:
            return self.log_path.read_text(errors='replace')
        except FileNotFoundError:
            return ''

    def pids(self, kind=None):
        """Processes of this installation: all, or 'supervisor', 'worker', 'postgres'."""
        found = []
        parents = {}
        for name in os.listdir('/proc'):
            if not name.isdigit():
                continue
            try:
                cmd = open(f'/proc/{name}/cmdline', 'rb').read().replace(b'\0', b' ').decode('utf8', 'replace')
                ppid = int(open(f'/proc/{name}/stat').read().rsplit(')', 1)[1].split()[1])
                state = open(f'/proc/{name}/stat').read().rsplit(')', 1)[1].split()[0]
            except OSError:
                continue
            if state != 'Z':
                parents[int(name)] = (ppid, cmd)
        ours = {p for p, (_, c) in parents.items() if str(self.data) in c}
        grown = True
        while grown:  # postgres backends do not name the folder
            more = {p for p, (pp, _) in parents.items() if pp in ours} - ours
            grown = bool(more)
            ours |= more
        for p in sorted(ours):
            ppid, cmd = parents[p]
            what = 'postgres' if 'postgres' in cmd.split(' ')[0] else \
                'worker' if ppid in ours and 'serve' in cmd else 'supervisor'
            if kind in (None, what):
                found.append(p)
        return found

    def sql(self, statement):
        """Rows of a statement on the embedded database, as lists of strings."""
        if self.dsn:
            where = ['-d', self.dsn]
        else:
            text = subprocess.run([BINARY, 'check', *self._where()], capture_output=True)
            del text
            sock = self.socket_folder()
            where = ['-h', sock[0], '-p', sock[1], '-d', 'moonpost', '-U', owner()]
        r = subprocess.run(['psql', '-XAtq', '-F', '\t', *where, '-c', statement], text=True, capture_output=True)
        if r.returncode != 0:
            raise AssertionError(r.stderr)
        return [line.split('\t') for line in r.stdout.splitlines()]

    def socket_folder(self):
        lines = (self.data / 'postgres' / 'postmaster.pid').read_text().splitlines()
        return lines[4], lines[3]

    def users(self, *names, domain='example.test', password='secret'):
        """A domain and users; before or after start."""
        self.cli('domain', 'add', domain, check=False)
        for n in names:
            self.cli('user', 'add', n, '--password', password)
        return self

    # --- clients
    def connect(self, service, tls=None, timeout=20):
        c = Conn(self.port(service), timeout)
        if tls if tls is not None else service.endswith('s') and service != 'smtp' and service in ('smtps', 'pop3s', 'imaps'):
            c.start_tls()
        return c

    def smtp(self, ehlo='client.test', service='smtp'):
        import smtplib
        c = smtplib.SMTP('127.0.0.1', self.port(service), local_hostname=ehlo, timeout=30)
        return c

    def send(self, to='bob@example.test', text='Subject: x\r\n\r\nhello\r\n', sender='a@elsewhere.test'):
        with self.smtp() as c:
            return c.sendmail(sender, to, text)

    def imap(self, user, password='secret'):
        import imaplib
        c = imaplib.IMAP4('127.0.0.1', self.port('imap'), timeout=30)
        c.login(user, password)
        return c

    def pop3(self, user, password='secret'):
        import poplib
        poplib._MAXLINE = 1 << 24  # its own limit is 2048
        c = poplib.POP3('127.0.0.1', self.port('pop3'), timeout=30)
        c.user(user)
        c.pass_(password)
        return c

    def bodies(self, user, password='secret'):
        """All messages of the INBOX, by POP3.  A worker whose database has just come back may still say
        [SYS/TEMP] for some seconds."""
        import poplib

        def sign_in():
            try:
                return self.pop3(user, password)
            except poplib.error_proto as e:
                if b'[SYS/TEMP]' not in e.args[0]:
                    raise
                return None
        c = wait_until(sign_in, 15, 'the worker to reach its database')
        n, _ = c.stat()
        out = [b'\r\n'.join(c.retr(i)[1]) + b'\r\n' for i in range(1, n + 1)]
        c.quit()
        return out


class Conn:
    """A line client that shows every byte; for what libraries refuse to send."""

    def __init__(self, port, timeout=20):
        self.sock = socket.create_connection(('127.0.0.1', port), timeout)
        self.rest = b''

    def start_tls(self):
        ctx = ssl._create_unverified_context()
        self.sock = ctx.wrap_socket(self.sock)
        return self

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def line(self):
        while b'\n' not in self.rest:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError('closed')
            self.rest += more
        line, self.rest = self.rest.split(b'\n', 1)
        return line.rstrip(b'\r').decode('utf8', 'surrogateescape')

    def reply(self):
        """An SMTP reply: all lines joined with newlines."""
        lines = [self.line()]
        while lines[-1][3:4] == '-':
            lines.append(self.line())
        return '\n'.join(lines)

    def cmd(self, text):
        self.send(text + '\r\n')
        return self.reply()

    def closed(self):
        try:
            while True:
                if not self.sock.recv(65536):
                    return True
        except (ConnectionError, ssl.SSLError):
            return True

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def owner():
    """Name of the database owner: the user the cluster was made by."""
    return SERVICE_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def main(names):
    """Runs the test_* functions of a module; words on the command line choose by name."""
    wanted = sys.argv[1:]
    passed = failed = skipped = 0
    for name, fn in list(names.items()):
        if not name.startswith('test_') or not inspect.isfunction(fn):
            continue
        if wanted and not any(w in name for w in wanted):
            continue
        begun = time.monotonic()
        try:
            fn()
            passed += 1
            print(f'ok      {name} ({time.monotonic() - begun:.1f} s)', flush=True)
        except Skip as e:
            skipped += 1
            print(f'SKIPPED {name}: {e}', flush=True)
        except BaseException as e:
            failed += 1
            print(f'FAILED  {name}: {e}', flush=True)
            traceback.print_exc()
            if isinstance(e, KeyboardInterrupt):
                break
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(1 if failed or passed + skipped == 0 else 0)
