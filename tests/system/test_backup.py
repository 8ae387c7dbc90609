#!/usr/bin/env python3
"""backup and restore under a client that keeps UIDs (mbsync): nothing lost, no UID with other content."""
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'clients'))
from harness import Server, Skip, main  # noqa: E402


def uids(s):
    """UID -> subject of the INBOX."""
    with s.imap('bob') as c:
        c.select('INBOX')
        kind, data = c.uid('FETCH', '1:*', '(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])')
        out = {}
        for d in data:
            if isinstance(d, tuple):
                out[int(d[0].split(b'UID ')[1].split()[0])] = d[1].decode().strip()
        return out


def test_restore_under_mbsync():
    import subprocess
    if not shutil.which('mbsync'):
        raise Skip('mbsync is not installed')
    with Server(workers=2) as s:
        s.users('bob').start()
        sync = s.folder / 'sync'
        sync.mkdir()

        def mbsync():
            conf = s.folder / 'mbsyncrc'
            conf.write_text(f'IMAPAccount a\nHost 127.0.0.1\nPort {s.port("imap")}\nUser bob\nPass secret\n'
                            'SSLType None\nAuthMechs LOGIN\n\nIMAPStore far\nAccount a\n\nMaildirStore near\n'
                            f'Path {sync}/\nInbox {sync}/INBOX\nSubFolders Verbatim\n\nChannel c\nFar :far:\n'
                            'Near :near:\nPatterns INBOX\nSync Pull\nCreate Near\nExpunge None\nSyncState *\n')
            r = subprocess.run(['mbsync', '-c', str(conf), '-a'], capture_output=True, timeout=60)
            assert r.returncode == 0, r.stderr
            return len([p for p in (sync / 'INBOX').rglob('*') if p.is_file() and not p.name.startswith('.')])

        for n in range(5):
            s.send(text=f'Subject: before {n}\r\n\r\nx\r\n')
        assert mbsync() == 5
        backup = s.folder / 'backup'
        s.cli('backup', backup)
        for n in range(3):
            s.send(text=f'Subject: after the backup {n}\r\n\r\nx\r\n')
        assert mbsync() == 8  # the client has UIDs that the backup does not know
        seen = uids(s)
        s.stop()
        shutil.move(s.data, s.folder / 'lost')
        s.cli('restore', backup)
        s.start()
        for n in range(4):
            s.send(text=f'Subject: later {n}\r\n\r\nx\r\n')
        now = uids(s)
        assert len(now) == 9, now
        for uid, subject in now.items():
            assert seen.get(uid, subject) == subject, f'UID {uid} was {seen[uid]!r} and is {subject!r}'
        assert min(u for u, t in now.items() if 'later' in t) > 2 ** 20
        assert mbsync() == 12  # 5 + 3 it had, 4 new


main(globals())
