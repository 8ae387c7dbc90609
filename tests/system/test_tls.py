#!/usr/bin/env python3
"""Certificates: the self-made one, reload without a restart, old TLS versions refused."""
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from harness import Server, Conn, main, wait_until  # noqa: E402


def certificate(s, service='imaps'):
    return ssl.get_server_certificate(('127.0.0.1', s.port(service)))


def make(folder, name):
    cert, key = folder / f'{name}.pem', folder / f'{name}.key'
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                    '-days', '2', '-subj', f'/CN={name}', '-keyout', key, '-out', cert], check=True,
                   capture_output=True)
    return cert, key


def install(s, cert, key):
    for source, name in ((cert, 'certificate.pem'), (key, 'key.pem')):
        target = s.data / 'tls' / name
        shutil.copyfile(source, target)
        target.chmod(0o644)
    for pid in s.pids('supervisor'):
        os.kill(pid, signal.SIGHUP)


def test_reload():
    """A new certificate is served after SIGHUP; sessions go on; a broken one leaves the old in place."""
    with Server(workers=2) as s:
        s.users('bob').start()
        first = certificate(s)
        old = s.imap('bob')
        install(s, *make(s.folder, 'second.test'))
        wait_until(lambda: all(certificate(s) != first for _ in range(8)), 5, 'the new certificate')
        second = certificate(s)
        assert old.noop()[0] == 'OK'
        bad = s.folder / 'bad'
        bad.write_text('nonsense\n')
        install(s, bad, bad)
        wait_until(lambda: 'the old one stays' in s.log(), 5, 'the complaint')
        assert certificate(s) == second


def test_versions():
    with Server(workers=1) as s:
        s.users('bob').start()
        for version, works in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True),
                               (ssl.TLSVersion.TLSv1_1, False)):
            r = subprocess.run(['openssl', 's_client', '-connect', f'127.0.0.1:{s.port("pop3s")}',
                                {ssl.TLSVersion.TLSv1_3: '-tls1_3', ssl.TLSVersion.TLSv1_2: '-tls1_2',
                                 ssl.TLSVersion.TLSv1_1: '-tls1_1'}[version], '-quiet', '-cipher', 'ALL@SECLEVEL=0'],
                               input=b'QUIT\r\n', capture_output=True, timeout=20)
            assert (b'+OK' in r.stdout) == works, (version, r.stdout, r.stderr[-300:])


def test_tickets_are_shared_by_workers():
    """A session ticket of one worker is good at another."""
    with Server(workers=4) as s:
        s.users('bob').start()
        ctx = ssl._create_unverified_context()
        ctx.maximum_version = ssl.TLSVersion.TLSv1_2
        import socket
        session, reused = None, 0
        for _ in range(12):
            with socket.create_connection(('127.0.0.1', s.port('imaps'))) as raw:
                with ctx.wrap_socket(raw, session=session) as c:
                    c.recv(100)
                    reused += c.session_reused
                    session = session or c.session
        assert reused == 11, reused


def test_submission_needs_tls():
    with Server(workers=1) as s:
        s.users('bob').start()
        with Conn(s.port('submission')) as c:
            c.reply()
            c.cmd('EHLO c')
            assert c.cmd('MAIL FROM:<bob@example.test>').startswith('530 5.7.0')


main(globals())
