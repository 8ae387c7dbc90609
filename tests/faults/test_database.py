#!/usr/bin/env python3
"""The database goes away and comes back: sessions survive, nothing acknowledged is lost.  A small volume
is filled to the last byte under load."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Server, Skip, Conn, main, wait_until, SERVICE_USER  # noqa: E402
from load import Load  # noqa: E402


class Postgres:
    """A cluster of somebody else's, reached by --dsn."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / 'pg'
        self.bin = sorted(pathlib.Path('/usr/lib/postgresql').glob('*/bin'))[-1]
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, SERVICE_USER)
        self.run('initdb', '-D', self.data, '-U', 'owner', '-E', 'UTF8', '--locale=C', '-A', 'trust')
        with open(self.data / 'postgresql.conf', 'a') as f:
            f.write(f"listen_addresses = ''\nunix_socket_directories = '{self.data}'\nmax_connections = 100\n")
        self.start()
        self.run('createdb', '-h', self.data, '-U', 'owner', 'mail')
        self.dsn = f'host={self.data} user=owner dbname=mail'

    def run(self, program, *words):
        as_user = ['runuser', '-u', SERVICE_USER, '--'] if os.geteuid() == 0 else []
        subprocess.run([*as_user, self.bin / program, *map(str, words)], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, cwd='/')

    def start(self):
        self.run('pg_ctl', '-D', self.data, '-w', '-l', self.data / 'log', 'start')

    def stop(self, how='immediate'):
        self.run('pg_ctl', '-D', self.data, '-w', '-m', how, 'stop')


def external():
    s = Server(workers=2)
    try:
        pg = Postgres(s.folder)
    except subprocess.CalledProcessError as e:
        s.remove()
        raise AssertionError(f'cannot make a cluster: {e}')
    s.dsn = pg.dsn
    s.users('bob', 'carol')
    return s, pg


def test_away_and_back():
    """451 while it is away; the same sessions go on when it is back."""
    s, pg = external()
    with s:
        s.start()
        smtp, pop = s.connect('smtp'), s.connect('pop3')
        smtp.reply()
        pop.line()
        smtp.cmd('EHLO c')
        assert smtp.cmd('MAIL FROM:<a@elsewhere.test>').startswith('250')
        assert smtp.cmd('RCPT TO:<bob@example.test>').startswith('250')
        imap = s.imap('carol')
        pg.stop()
        assert smtp.cmd('DATA').startswith('354')
        smtp.send('Subject: x\r\n\r\nx\r\n.\r\n')
        assert smtp.reply().startswith('451 4.3.0'), 'a message while the database is away'
        assert smtp.cmd('NOOP').startswith('250')
        smtp.cmd('MAIL FROM:<a@elsewhere.test>')
        assert smtp.cmd('RCPT TO:<never-seen@example.test>').startswith('451')
        pop.send('USER bob\r\nPASS secret\r\n')
        pop.line()
        assert pop.line().startswith('-ERR [SYS/TEMP]')
        kind, data = imap._simple_command('SELECT', 'INBOX')
        assert kind == 'NO' and b'[UNAVAILABLE]' in data[0], (kind, data)
        fresh = s.connect('smtp')
        assert fresh.reply().startswith('220')
        pg.start()

        def delivered():
            smtp.cmd('RSET')
            smtp.cmd('MAIL FROM:<a@elsewhere.test>')
            if not smtp.cmd('RCPT TO:<bob@example.test>').startswith('250'):
                return False
            smtp.cmd('DATA')
            smtp.send('Subject: x\r\n\r\nx\r\n.\r\n')
            return smtp.reply().startswith('250')
        wait_until(delivered, 20, 'the session to recover')
        assert imap.select('INBOX')[0] == 'OK'
        assert len(s.bodies('bob')) == 1
        s.stop()
        pg.stop('fast')


def test_restarts_under_load():
    """The database is stopped at once and started again, several times, under load."""
    s, pg = external()
    with s:
        s.start()
        load = Load(s, ['bob', 'carol']).start()
        for _ in range(4):
            before = load.count()
            wait_until(lambda: load.count() > before + 20, 60, 'mail to flow')
            pg.stop()
            time.sleep(0.3)
            pg.start()
        before = load.count()
        wait_until(lambda: load.count() > before + 20, 60, 'mail to flow again')
        load.stop()
        load.check(s.bodies)
        s.stop()
        pg.stop('fast')


def volume(folder, megabytes):
    """A small file system of its own, or Skip."""
    image = folder.parent / (folder.name + '.img')
    folder.mkdir()
    with open(image, 'wb') as f:
        f.truncate(megabytes * 1024 * 1024)
    if os.geteuid() != 0 or subprocess.run(['mkfs.ext4', '-q', '-m', '0', image], capture_output=True).returncode != 0 \
            or subprocess.run(['mount', '-o', 'loop', image, folder], capture_output=True).returncode != 0:
        if os.geteuid() == 0 and subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m', 'none', folder],
                                                capture_output=True).returncode == 0:
            return
        raise Skip('no file system can be mounted here')


def test_full_volume():
    """Filled to the last byte under load: nothing acknowledged is lost, service returns with the space."""
    s = Server(workers=2)
    with s:
        volume(s.folder / 'data', 400)
        try:
            s.users('bob', 'carol')
            for name in ('storage.disk_refuse_mb', 'storage.disk_message_mb'):
                s.cli('setting', 'set', name, 0)
            s.start()
            load = Load(s, ['bob', 'carol'], big_every=3).start()
            wait_until(lambda: load.count() > 50, 60, 'mail to flow')
            filler = s.folder / 'data' / 'filler'
            with open(filler, 'wb', buffering=0) as f:
                block = b'\0' * 65536
                while len(block) > 0:
                    try:
                        f.write(block)
                    except OSError:
                        block = block[:len(block) // 2]

            def stuck():
                before = load.count()
                time.sleep(1.5)
                return load.count() == before
            wait_until(stuck, 120, 'the volume to be full')
            filler.unlink()
            before = load.count()
            wait_until(lambda: load.count() > before + 20, 120, 'service to return')
            load.stop()
            found = load.check(s.bodies)
            print(f'figure full volume: {load.count()} acknowledged, {found} found')
            s.stop()
        finally:
            s.remove_mount = True
            for pid in s.pids():
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            wait_until(lambda: not s.pids(), 20, 'processes to go')
            subprocess.run(['umount', '-l', s.folder / 'data'])
            (s.folder / 'data.img').unlink(missing_ok=True)


def test_floors():
    """Below the floors new mail is refused with 452, then connections with 421."""
    with Server(workers=1) as s:
        s.users('bob').start()
        with Conn(s.port('smtp')) as c:
            c.reply()
            c.cmd('EHLO c')
            s.cli('setting', 'set', 'storage.disk_message_mb', 100000000)
            wait_until(lambda: c.cmd('MAIL FROM:<a@b.test>').startswith('452 4.3.1') or not c.cmd('RSET'), 10,
                       'the floor for mail')
        s.cli('setting', 'set', 'storage.disk_refuse_mb', 100000000)

        def refused():
            with Conn(s.port('smtp')) as c:
                return c.reply().startswith('421')
        wait_until(refused, 10, 'the floor for connections')
        s.cli('setting', 'set', 'storage.disk_message_mb', 1)
        s.cli('setting', 'set', 'storage.disk_refuse_mb', 1)
        wait_until(lambda: not refused(), 10, 'connections to be taken again')


if __name__ == "__main__":
    main(globals())
