"""The servers we are measured against: Postfix 3 with Dovecot 2.3 over LMTP, and OpenSMTPD.

Packages come from Debian; configuration, queues and mailboxes live below /tmp/moonpost-bench, everything
listens on 127.0.0.1 only and asks no DNS.  They are tuned upwards where the stock settings would hold them
back: no input throttle, more parallel deliveries.  OpenSMTPD conflicts with Postfix as a package, so it
is installed in an overlay of this root, with queue and mail on the real disk."""
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import time

from common import WORK, DOMAIN, PASSWORD, Counter, FolderCounter, descendants, port_free, wait_until

PACKAGES = 'postfix postfix-lmdb dovecot-core dovecot-imapd dovecot-lmtpd dovecot-sieve'.split()
MAIL_USER = 'vmail'

POSTFIX_MAIN = """compatibility_level = 3.6
queue_directory = {f}/spool
data_directory = {f}/data
mail_owner = postfix
setgid_group = postdrop
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
maillog_file_prefixes = /tmp
maillog_file = {f}/log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = peer.{domain}
mydestination =
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_recipient_restrictions = permit_mynetworks, reject
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = static:ok
virtual_transport = lmtp:unix:{f}/dovecot/lmtp
message_size_limit = 60000000
in_flow_delay = 0
default_process_limit = 120
initial_destination_concurrency = 10
lmtp_destination_concurrency_limit = 20
qmgr_message_active_limit = 40000
qmgr_message_recipient_limit = 40000
"""

POSTFIX_MASTER = """127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

DOVECOT = """base_dir = {f}/dovecot
state_dir = {f}/dovecot
log_path = {f}/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_username_format = %Ln
mail_location = {location}
mail_max_userip_connections = 3000
first_valid_uid = 1
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={user} home={f}/mail/%n
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
plugin {{
  sieve = file:~/sieve;active=~/.sieve
}}
protocol lmtp {{
  mail_plugins = sieve
}}
service lmtp {{
  process_min_avail = 4
  unix_listener lmtp {{
    mode = 0666
  }}
}}
service imap-login {{
  process_limit = 2000
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service imap {{
  process_limit = 3000
}}
service auth {{
  client_limit = 6000
}}
service anvil {{
  client_limit = 6000
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""

OPENSMTPD = """table aliases {{ "@" = "{user}" }}
smtp limit max-mails 1000000
smtp max-message-size 60M
listen on 127.0.0.1 port {port} hostname peer.{domain}
action "local" maildir "/bench/%{{rcpt.user}}" virtual <aliases>
match from any for domain "{domain}" action "local"
"""


def mail_user():
    try:
        pwd.getpwnam(MAIL_USER)
    except KeyError:
        subprocess.run(['useradd', '--system', '--user-group', '--no-create-home', '--shell',
                        '/usr/sbin/nologin', MAIL_USER], check=True)


def install():
    """Debian's packages, without letting them start anything."""
    have = subprocess.run(['dpkg-query', '-W', '-f', '${Package} ${Status}\n', *PACKAGES], text=True,
                          capture_output=True).stdout
    missing = [p for p in PACKAGES if f'{p} install ok installed' not in have]
    if not missing:
        return
    policy = pathlib.Path('/usr/sbin/policy-rc.d')
    ours = not policy.exists()
    if ours:
        policy.write_text('#!/bin/sh\nexit 101\n')
        policy.chmod(0o755)
    try:
        subprocess.run(['debconf-set-selections'], text=True, check=True,
                       input='postfix postfix/main_mailer_type select No configuration\n')
        subprocess.run(['apt-get', 'install', '-y', '-q', '--no-install-recommends', *missing], check=True,
                       stdout=subprocess.DEVNULL, env=dict(os.environ, DEBIAN_FRONTEND='noninteractive'))
    finally:
        if ours:
            policy.unlink()


class PostfixDovecot:
    """postfix -> LMTP -> dovecot.  Any user@bench.test exists."""
    smtp, imap = 12525, 12143

    def __init__(self, storage='maildir'):
        self.name = f'postfix+dovecot {storage}'
        self.location = {'maildir': 'maildir:~/Maildir', 'mdbox': 'mdbox:~/mdbox'}[storage]
        self.folder = WORK / f'postfix-{storage}'

    def start(self):
        install()
        mail_user()
        f = self.folder
        shutil.rmtree(f, ignore_errors=True)
        for name in ('etc', 'spool', 'data', 'dovecot', 'mail'):
            (f / name).mkdir(parents=True, mode=0o755)
        WORK.chmod(0o755)
        shutil.chown(f / 'data', 'postfix')
        shutil.chown(f / 'mail', MAIL_USER, MAIL_USER)
        if not pathlib.Path('/etc/postfix/main.cf').exists():
            pathlib.Path('/etc/postfix/main.cf').write_text('compatibility_level = 3.6\n')
            pathlib.Path('/etc/postfix/master.cf').touch()
        (f / 'etc/main.cf').write_text(POSTFIX_MAIN.format(f=f, domain=DOMAIN))
        (f / 'etc/master.cf').write_text(POSTFIX_MASTER.format(port=self.smtp))
        (f / 'dovecot.conf').write_text(DOVECOT.format(f=f, location=self.location, user=MAIL_USER,
                                                       imap=self.imap, password=PASSWORD))
        subprocess.run(['dovecot', '-c', str(f / 'dovecot.conf')], check=True)
        subprocess.run(['postfix', '-c', str(f / 'etc'), 'start'], check=True, stderr=subprocess.DEVNULL)
        wait_until(lambda: not port_free(self.smtp) and not port_free(self.imap), 30, self.name)
        return self

    def pids(self):
        roots = []
        for path in (self.folder / 'spool/pid/master.pid', self.folder / 'dovecot/master.pid'):
            roots.append(int(path.read_text()))
        return set().union(*(descendants(r) for r in roots))

    def counter(self, names):
        return Counter(self.imap, names)

    def stop(self):
        subprocess.run(['postfix', '-c', str(self.folder / 'etc'), 'stop'], stderr=subprocess.DEVNULL)
        subprocess.run(['doveadm', '-c', str(self.folder / 'dovecot.conf'), 'stop'])
        wait_until(lambda: port_free(self.smtp) and port_free(self.imap), 30, 'peers to stop')
        shutil.rmtree(self.folder, ignore_errors=True)


class OpenSMTPD:
    """opensmtpd -> maildir.  Needs root and overlayfs; its maildirs are counted directly."""
    smtp = 12625
    name = 'opensmtpd'

    def __init__(self):
        self.base = WORK / 'opensmtpd'
        self.root = self.base / 'root'
        self.pid = None

    def _mount(self, *words):
        subprocess.run(['mount', *map(str, words)], check=True)

    def start(self):
        if os.geteuid() != 0:
            raise RuntimeError('an overlay root needs root')
        mail_user()
        mail, spool = self.base / 'mail', self.base / 'spool'
        for f in (mail, spool):
            shutil.rmtree(f, ignore_errors=True)
        for f in (mail, spool, self.base / 'upper', self.base / 'work', self.root):
            f.mkdir(parents=True, exist_ok=True)
        shutil.chown(mail, MAIL_USER, MAIL_USER)
        spool.chmod(0o711)
        self._mount('-t', 'overlay', 'overlay', '-o',
                    f'lowerdir=/,upperdir={self.base}/upper,workdir={self.base}/work', self.root)
        try:
            self._mount('-t', 'proc', 'proc', self.root / 'proc')
            self._mount('--bind', '/dev', self.root / 'dev')
            self._prepare(mail, spool)
        except BaseException:
            self._unmount()
            raise
        return self

    def _prepare(self, mail, spool):
        if not (self.root / 'usr/sbin/smtpd').exists():
            (self.root / 'usr/sbin/policy-rc.d').write_text('#!/bin/sh\nexit 101\n')
            (self.root / 'usr/sbin/policy-rc.d').chmod(0o755)
            subprocess.run(['chroot', self.root, 'apt-get', 'install', '-y', '-q', '--no-install-recommends',
                            'opensmtpd'], check=True, stdout=subprocess.DEVNULL,
                           env=dict(os.environ, DEBIAN_FRONTEND='noninteractive'))
        for inside, outside in (('bench', mail), ('var/spool/smtpd', spool)):
            (self.root / inside).mkdir(parents=True, exist_ok=True)
            self._mount('--bind', outside, self.root / inside)
        (self.root / 'etc/resolv.conf').unlink(missing_ok=True)
        (self.root / 'etc/resolv.conf').write_text('nameserver 127.0.0.1\noptions timeout:1 attempts:1\n')
        (self.root / 'etc/hosts').write_text(f'127.0.0.1 localhost peer.{DOMAIN} {os.uname().nodename}\n')
        (self.root / 'etc/smtpd.conf').write_text(
            OPENSMTPD.format(user=MAIL_USER, port=self.smtp, domain=DOMAIN))
        log = open(self.base / 'log', 'wb')
        p = subprocess.Popen(['chroot', self.root, '/usr/sbin/smtpd', '-d', '-f', '/etc/smtpd.conf'],
                             stdout=log, stderr=log, start_new_session=True)
        self.pid, self.process = p.pid, p
        wait_until(lambda: not port_free(self.smtp), 20, 'opensmtpd')

    def pids(self):
        return descendants(self.pid)

    def counter(self, names):
        return FolderCounter(self.base / 'mail', names)

    def _unmount(self):
        points = [line.split()[1] for line in open('/proc/mounts')]
        for point in sorted((p for p in points if p.startswith(str(self.root))), reverse=True):
            for _ in range(50):
                if subprocess.run(['umount', point], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self.process.wait(20)
            wait_until(lambda: port_free(self.smtp), 20, 'opensmtpd to stop')
        self._unmount()
