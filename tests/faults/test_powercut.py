#!/usr/bin/env python3
"""Power cut: PostgreSQL runs under a library that keeps a copy of only what was synced
(tests/support/powercut.c); a server is started from that copy and must have every acknowledged message.
With syncs that keep nothing (what fsync=off is) the same test must fail."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Server, main, wait_until, ROOT  # noqa: E402
from load import Load  # noqa: E402

USERS = ['bob', 'carol']


def baseline(cluster, shadow):
    """Everything that stands there before counts as synced."""
    for sub in ('files', 'names'):
        (shadow / sub).mkdir(parents=True)
    for path in sorted(cluster.rglob('*')):
        rel = str(path.relative_to(cluster)).replace('/', '%')
        st = path.lstat()
        folder = path.is_dir()
        (shadow / 'names' / rel).write_text(f'{"folder" if folder else "file"} {st.st_ino}\n')
        if not folder:
            shutil.copyfile(path, shadow / 'files' / str(st.st_ino))


def rebuild(cluster, shadow):
    """The folder as the power cut leaves it."""
    owner = cluster.stat()
    shutil.rmtree(cluster)
    cluster.mkdir(mode=0o700)
    for entry in sorted((shadow / 'names').iterdir()):
        kind, ino = entry.read_text().split()
        path = cluster / entry.name.replace('%', '/')
        if kind == 'folder':
            path.mkdir(mode=0o700, exist_ok=True, parents=True)
    for entry in sorted((shadow / 'names').iterdir()):
        kind, ino = entry.read_text().split()
        path = cluster / entry.name.replace('%', '/')
        if kind == 'file' and path.parent.is_dir():
            kept = shadow / 'files' / ino
            if kept.exists():
                shutil.copyfile(kept, path)
            else:
                path.write_bytes(b'')  # its name was synced, its contents never
            path.chmod(0o600)
    if os.geteuid() == 0:
        for path in [cluster, *cluster.rglob('*')]:
            os.chown(path, owner.st_uid, owner.st_gid)


def cut(lie):
    with Server(workers=2) as s:
        lib = s.folder / 'powercut.so'
        subprocess.run(['gcc', '-shared', '-fPIC', '-O1', '-o', lib, ROOT / 'tests/support/powercut.c', '-ldl'],
                       check=True)
        lib.chmod(0o755)
        s.users(*USERS)
        cluster, shadow = s.data / 'postgres', s.folder / 'shadow'
        baseline(cluster, shadow)
        if os.geteuid() == 0:
            subprocess.run(['chown', '-R', 'moonpost', shadow], check=True)
        s.env.update(LD_PRELOAD=str(lib), POWERCUT_ROOT=str(cluster), POWERCUT_SHADOW=str(shadow))
        if lie:
            s.env['POWERCUT_LIE'] = '1'
        s.start()
        load = Load(s, USERS, big_every=10).start()
        wait_until(lambda: load.count() >= 200, 120, '200 acknowledged messages')
        s.kill()  # processes are gone; what the kernel still held is thrown away next
        load.stop()
        rebuild(cluster, shadow)
        for k in ('LD_PRELOAD', 'POWERCUT_ROOT', 'POWERCUT_SHADOW', 'POWERCUT_LIE'):
            s.env.pop(k, None)
        s.start()
        found = load.check(s.bodies)
        print(f'figure powercut: {load.count()} acknowledged, {found} found')


def test_every_acknowledged_message_survives():
    cut(lie=False)


def test_the_test_fails_without_sync():
    try:
        cut(lie=True)
    except AssertionError as e:
        assert 'lost' in str(e) or 'server ended' in str(e) or 'timed out' in str(e), e
        return
    raise AssertionError('messages survived a power cut without a single sync: the test proves nothing')


main(globals())
